"""GPUs are counted, and jobs spread over them; nvidia-smi and CUDA are pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yte
from conftest import REPOSITORY

from cloakbench.running.gpu import VISIBLE, visible_gpus

CLAIM = """
import os, sys
from cloakbench.running.gpu import VISIBLE, claim_gpu
claim_gpu()
print(os.environ.get(VISIBLE, "all"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes a machine with a number of GPUs, which no other test knows of."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    def with_gpus(count: int) -> None:
        lines = [f"GPU {n}: Pretended (UUID: GPU-{n})" for n in range(count)]
        command = tmp_path / "nvidia-smi"
        command.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        command.chmod(0o755)

    return with_gpus


class Claimant:
    """A process that claims a GPU and keeps it until it is told to go, or is killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.gpu = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def claimants():
    """Starts processes that claim a GPU each, one after the other."""
    started: list[Claimant] = []

    def start(count: int) -> list[Claimant]:
        new = [Claimant() for _ in range(count)]
        started.extend(new)
        return new

    yield start
    for claimant in started:
        claimant.kill()


def profile() -> dict:
    path = REPOSITORY / "profiles" / "default" / "config.yaml"
    return yte.process_yaml(path.open(), require_use_yte=True)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_default_profile_runs_one_job_for_each_gpu(count, machine):
    machine(count)

    assert profile()["resources"] == {"gpu": count}


def test_without_a_gpu_nothing_limits_jobs_that_would_use_one(machine):
    assert visible_gpus() == []
    assert "resources" not in profile()


@pytest.mark.parametrize(
    ("given", "seen"), [("", []), ("-1", []), ("3", ["3"]), ("1,2", ["1", "2"])]
)
def test_what_the_user_or_slurm_has_chosen_is_respected(given, seen, machine, monkeypatch):
    machine(4)
    monkeypatch.setenv(VISIBLE, given)

    assert visible_gpus() == seen


def test_jobs_at_the_same_time_use_different_gpus(machine, claimants):
    machine(3)

    assert {claimant.gpu for claimant in claimants(3)} == {"0", "1", "2"}


def test_more_jobs_than_gpus_are_spread_evenly(machine, claimants):
    machine(2)

    assert Counter(claimant.gpu for claimant in claimants(6)) == {"0": 3, "1": 3}


def test_a_killed_job_gives_its_gpu_back(machine, claimants):
    machine(2)
    first, _ = claimants(2)
    first.kill()
    (third,) = claimants(1)

    assert third.gpu == first.gpu
    assert len(list(Path(os.environ["TMPDIR"]).glob("cloakbench-gpus-*/*.*"))) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_claimed_where_there_is_no_choice(count, machine, claimants):
    machine(count)

    assert claimants(1)[0].gpu == "all"
