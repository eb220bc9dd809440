"""A small experiment through profiles/slurm on a real SLURM of one node, with accidents.

SLURM is asked what it ran: nothing here trusts Snakemake's word.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

BUNDLED = REPOSITORY / "resources" / "identities"
PROFILE = REPOSITORY / "profiles" / "slurm"
SCRIPTS = Path(__file__).parent / "slurm"
CONFIGURED = Path("/etc/slurm/slurm.conf")
PATIENCE = 1500  # s; on two free cores all of it takes three minutes

pytestmark = pytest.mark.timeout(2 * PATIENCE)


@dataclass(frozen=True)
class Record:
    """What SLURM knows of a job."""

    number: str
    rule: str
    state: str
    memory: str
    time_limit: str
    gpus: str


def records() -> list[Record]:
    """All jobs that SLURM has seen, in the order of their submission."""
    shown = _output("scontrol", "--oneliner", "show", "job")
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if "=" in line]
    return [
        Record(
            job["JobId"],
            re.sub(r"^rule_|_wildcards_.*$", "", job["Comment"]),
            job["JobState"],
            job["MinMemoryNode"],
            job["TimeLimit"],
            job.get("TresPerJob", ""),
        )
        for job in sorted(jobs, key=lambda job: int(job["JobId"]))
    ]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running SLURM; skips where there can be none."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("Snakemake's plugin for SLURM is not installed: make slurm")
    if missing := [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]:
        pytest.skip(f"no {missing[0]}: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    if CONFIGURED.exists() and not CONFIGURED.is_symlink():
        pytest.skip(f"this machine has a SLURM of its own ({CONFIGURED})")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPTS / "up.sh", folder], check=True)
    yield
    subprocess.run([SCRIPTS / "down.sh", folder], check=True)


@dataclass(frozen=True)
class Experiment:
    """A folder with a small experiment in it."""

    folder: Path

    def start(self) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).with_name("snakemake")),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--configfile", "tiny.yaml"),
            *("--workflow-profile", str(PROFILE)),
            *("--slurm-init-seconds-before-status-checks", "8", "--latency-wait", "5"),
        ]
        with (self.folder / "snakemake.log").open("w") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True)

    @property
    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def process(self, stage: str) -> int | None:
        """The number of the process that runs a stage in this folder, if there is one."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                here = Path(os.readlink(entry / "cwd")) == self.folder
            except OSError:
                continue
            if here and words[1:4] == ["-P", "-m", "cloakbench"] and stage in words[4:8]:
                return int(entry.name)
        return None


@pytest.fixture(scope="module")
def experiment(slurm: None, tiny_model, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Run it; kill a process of one job, as a node without memory would, and cancel another."""
    experiment = Experiment(tmp_path_factory.mktemp("experiment"))
    identities = sorted(BUNDLED.glob("*/"))[:2]
    for identity in identities:
        shutil.copytree(identity, experiment.folder / "identities" / identity.name)
    shutil.copy(REPOSITORY / "config.yaml", experiment.folder)
    config = {
        "experiment": "tiny",
        "models": {"mini": {"path": tiny_model.path, "resolution": 128}},
        "datasets": {"bundled": {"path": "identities"}},
        "identities": [identities[0].name],
        "preset": "tiny",
        "protections": ["fsmg"],
        "purifications": ["none"],
        "trainers": ["dreambooth"],
        "prompts": {"sample": {"photo": "a photo of {identifier} {class_noun}"}},
        "class_images": {"images": 2, "steps": 2, "sampler": "ddim"},
        "sampling": {"images": 1, "steps": 2, "sampler": "ddim"},
        "metrics": ["fdfr", "ism"],
    }
    (experiment.folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    snakemake = experiment.start()
    try:
        os.kill(_soon(snakemake, lambda: experiment.process("class-images")), signal.SIGKILL)
        _output("scancel", _soon(snakemake, lambda: _running("references")))
        snakemake.wait(PATIENCE)
    finally:
        snakemake.kill()
    assert snakemake.returncode == 0, experiment.log
    return experiment


def test_it_ends_in_a_table(experiment):
    summary = pd.read_csv(experiment.folder / "results" / "tables" / "tiny" / "summary.csv")

    assert list(summary["protection"]) == ["fsmg"]


def test_slurm_ran_every_job_that_takes_longer_and_those_that_had_an_accident_again(experiment):
    assert Counter((record.rule, record.state) for record in records()) == {
        ("class_images", "FAILED"): 1,
        ("class_images", "COMPLETED"): 1,
        ("references", "CANCELLED"): 1,
        ("references", "COMPLETED"): 1,
        ("protect", "COMPLETED"): 1,
        ("personalise", "COMPLETED"): 1,
        ("score", "COMPLETED"): 1,
    }


def test_seconds_of_work_stay_with_snakemake(experiment):
    started = set(re.findall(r"^[\d:]{8}  (\w+)", experiment.log, re.MULTILINE))

    assert started >= {"data", "purify", "distances", "tables", "report"}


def test_each_job_asked_for_what_the_profile_says(experiment):
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    attempts: Counter[str] = Counter()
    for record in records():
        attempts[record.rule] += 1
        asked = profile["default-resources"] | profile["set-resources"].get(record.rule, {})
        memory, minutes = (
            eval(str(asked[key]), {"attempt": attempts[record.rule]})
            for key in ("mem_mb", "runtime")
        )
        assert record.memory == f"{memory}M", record
        assert record.time_limit == f"{minutes // 60:02d}:{minutes % 60:02d}:00", record
        assert record.gpus == ("gres:gpu:1" if "gpu" in asked else ""), record


def test_a_cancelled_job_is_named(experiment):
    (cancelled,) = [record for record in records() if record.state == "CANCELLED"]

    assert f"SLURM-job '{cancelled.number}' failed, SLURM status is: 'CANCELLED'" in experiment.log


def test_a_second_run_does_nothing(experiment):
    before = len(records())
    again = experiment.start()

    assert again.wait(PATIENCE) == 0
    assert "Nothing to be done" in experiment.log
    assert len(records()) == before


def _soon(snakemake: subprocess.Popen[str], find: Callable[[], object]):
    """What `find` returns as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        assert snakemake.poll() is None, "Snakemake ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def _running(rule: str) -> str | None:
    running = (record for record in records() if record.rule == rule)
    return next((record.number for record in running if record.state == "RUNNING"), None)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
