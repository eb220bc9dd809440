"""The whole workflow at Stable Diffusion's size, on random weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.large
def test_every_job_of_a_cell_runs_at_full_size():
    command = [sys.executable, REPOSITORY / "tools" / "full_size.py", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    costs = {cost["job"]: cost for cost in json.loads(done.stdout)}

    assert {"protect/advdm", "purify/advdm/jpeg", "score/advdm/jpeg/lora"} <= costs.keys()
    assert costs["personalise/advdm/jpeg/lora"]["memory"] > 4  # a model of the real size
    assert max(cost["memory"] for cost in costs.values()) < 16
