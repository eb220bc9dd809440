"""The whole workflow at Stable Diffusion's size, on random weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from test_status import finish

from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.needs import Need
from cloakbench.experiment.tasks import all_tasks, manifest
from cloakbench.running.gpu import PEAK, peak_memory

sys.path.insert(0, str(REPOSITORY / "tools"))
import full_size


@pytest.mark.large
def test_every_job_of_a_cell_runs_at_full_size():
    command = [sys.executable, REPOSITORY / "tools" / "full_size.py", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    costs = {cost["job"]: cost for cost in json.loads(done.stdout)}

    assert {"protect/advdm", "purify/advdm/jpeg", "score/advdm/jpeg/lora"} <= costs.keys()
    assert costs["personalise/advdm/jpeg/lora"]["memory"] > 4  # a model of the real size
    assert max(cost["memory"] for cost in costs.values()) < 16


def test_what_a_job_took_stands_beside_what_is_counted_for_it(dataset, tiny_model, tmp_path):
    experiment = Experiment.parse(
        {
            "experiment": "study",
            "results": str(tmp_path / "results"),
            "model": "tiny",
            "models": {"tiny": tiny_model.model_dump()},
            "dataset": "people",
            "datasets": {"people": {"path": str(dataset)}},
            "identities": ["anna"],
            "protections": ["noise"],
            "purifications": ["none"],
            "trainers": ["dreambooth"],
        }
    )
    [task, *_] = all_tasks(experiment)["personalise"]
    assert full_size.measured(task, experiment) is None
    finish(experiment, [task], seconds=10.0)
    path = manifest(task, experiment)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"took": {PEAK: 14e9}}))

    cost = full_size.measured(task, experiment)
    assert cost is not None
    compared = full_size.beside(cost, Need(flops=1e15, device=15 * 10**9, host=0), peak=1e15)

    assert (cost.job, cost.wall, cost.device) == ("personalise/noise/none/dreambooth", 10.0, 14.0)
    assert (compared.counted, compared.share) == (15.0, 0.1)


def test_a_manifest_says_what_a_job_took_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 14 * 10**9)

    assert peak_memory("cuda") == {PEAK: 14e9}
    assert peak_memory("cpu") == {}
