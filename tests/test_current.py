"""Results tell what made them: what is no longer so is made again, and nothing else is."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Workflow
from typer.testing import CliRunner

from cloakbench.cli.main import app

OF_A_SEED = {
    "protect_quick": 2,
    "purify_quick": 2,
    "distances": 2,
    "personalise": 4,
    "sample": 4,
    "score": 4,
    "tables": 1,
    "report": 1,
}
"""Jobs that are done with each seed, and what follows from them."""


@pytest.fixture
def copied(workflow: Workflow, tmp_path: Path) -> Workflow:
    """The finished study, in a place of its own."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(workflow.folder, folder, ignore=shutil.ignore_patterns(".snakemake"))
    datasets = {"bundled": {"path": str(folder / "identities")}}
    return Workflow(folder, workflow.config | {"datasets": datasets})


def touch(workflow: Workflow) -> None:
    """As after a checkout, an archive or a careless `find -exec touch`: times in any order."""
    rng = random.Random(0)
    for path in (workflow.folder / "results").rglob("*"):
        os.utime(path, (rng.uniform(1e9, 1.7e9),) * 2)


def date_ahead(workflow: Workflow) -> None:
    """As from a machine whose clock is ahead."""
    for path in (workflow.folder / "results").rglob("*"):
        os.utime(path, (4e9, 4e9))


def move(workflow: Workflow) -> None:
    (workflow.folder / "results").rename(workflow.folder / "moved")
    workflow.config["results"] = "moved"


HAPPENS: dict[str, Callable[[Workflow], None]] = {
    "nothing": lambda workflow: None,
    "touched": touch,
    "from a clock ahead": date_ahead,
    "moved": move,
}


@pytest.mark.parametrize("what", HAPPENS)
def test_without_the_workflows_books_nothing_is_forgotten_and_nothing_done_twice(
    what: str, copied: Workflow
):
    HAPPENS[what](copied)

    assert copied.planned() == {}
    assert copied.planned(seeds=[0, 1]) == OF_A_SEED


def test_a_trainer_that_only_samples_otherwise_is_not_trained_where_weights_are_kept(copied):
    otherwise = {"name": "no-suffix", "method": "cdl", "suffix_in_sampling": False}
    changes = {"trainers": [*copied.config["trainers"], otherwise]}

    planned = copied.planned(**changes)

    assert planned == {"sample": 2, "score": 2, "tables": 1, "report": 1}


def test_what_was_outdated_is_made_again_once(copied: Workflow):
    date_ahead(copied)
    changes = {"protections": ["clean", {"method": "noise", "budget": "5/255"}]}
    until = ("--until", "distances")

    assert copied.snakemake(*until, **changes).returncode == 0
    assert copied.planned(*until, **changes) == {}


def named(workflow: Workflow, command: str, **changes: object) -> str:
    config = workflow.config | changes
    path = workflow.folder / "other.yaml"
    path.write_text(json.dumps(config))
    done = CliRunner().invoke(app, [command, str(workflow.folder / "config.yaml"), str(path)])
    assert done.exit_code == 1, done.output
    return str(done.exception)


@pytest.mark.parametrize("command", ["tables", "report"])
def test_no_table_tells_of_another_experiment_than_its_cells(command, copied, monkeypatch):
    monkeypatch.chdir(copied.folder)
    trainers = ["dreambooth", {"name": "cdl", "method": "cdl", "steps": 3}]

    lines = named(copied, command, trainers=trainers).split("\nerror: ")

    assert any("personalised/" in line and "settings: steps was" in line for line in lines)
    assert all(line.endswith("or name the config that made them.") for line in lines)


FILES = {
    "references": "mini/bundled/references.json",
    "score": "mini/bundled/*/seed_0/scores/noise/none/cdl.csv",
    "distances": "mini/bundled/*/seed_0/scores/noise/none.csv",
    "tables": "tables/tiny/summary.csv",
    "report": "report/tiny/index.html",
}


@pytest.mark.parametrize("rule", FILES)
def test_a_file_that_was_changed_is_made_again(rule, copied):
    [path] = (copied.folder / "results").glob(FILES[rule])
    path.write_text(path.read_text() + "0")

    assert rule in copied.planned()


def test_samples_that_were_made_again_otherwise_are_scored_again(copied):
    """As on another machine: what made them is the same, and their bytes are not."""
    [said] = (copied.folder / "results").glob("*/*/*/*/generated/noise/none/cdl/job.json")
    manifest = json.loads(said.read_text())
    manifest["files"] = dict.fromkeys(manifest["files"], "0" * 64)
    said.write_text(json.dumps(manifest))

    assert copied.planned() == {"score": 1, "tables": 1, "report": 1}
