"""How far an experiment is, by its files; and the same numbers in Snakemake's plan."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Workflow
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.status import Progress, duration, print_status, read_status
from cloakbench.experiment.tasks import Task, all_tasks, inputs, manifest, result
from cloakbench.files.outputs import MANIFEST, sha256


@pytest.fixture
def config(dataset: Path, tmp_path: Path) -> dict[str, Any]:
    """Two identities, two protections, a trainer and its twin with a dot in its name."""
    return {
        "experiment": "study",
        "results": str(tmp_path / "results"),
        "model": "mini",
        "models": {"mini": {"path": "resources/mini", "resolution": 64}},
        "dataset": "people",
        "datasets": {"people": {"path": str(dataset)}},
        "protections": ["noise", "aspl"],
        "purifications": ["none"],
        "trainers": ["dreambooth", {"name": "dreambooth-1.5", "method": "dreambooth"}],
    }


@pytest.fixture
def experiment(config: dict[str, Any]) -> Experiment:
    return Experiment.parse(config)


def tasks(experiment: Experiment, stage: str, **labels: str) -> list[Task]:
    """The stage's jobs that have these labels."""
    return [
        task
        for task in all_tasks(experiment)[stage]
        if all(getattr(task.cell, key) == label for key, label in labels.items())
    ]


def finish(experiment: Experiment, jobs: list[Task], seconds: float = 1.0) -> None:
    """What finished jobs leave: a manifest and a benchmark."""
    expected = Expected(experiment)
    for task in jobs:
        path, made = result(task, experiment), expected.record(task).manifest()
        files: dict[str, str] = {}
        if path.name != MANIFEST:
            write(path, "a table")
            files = {path.name: sha256(path)}
        write(manifest(task, experiment), json.dumps(made | {"files": files}))
        figures = f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t512.5\t1.0\n"
        write(experiment.layout.benchmark(*task), figures)


def fail(experiment: Experiment, jobs: list[Task], text: str) -> None:
    for task in jobs:
        write(experiment.layout.log(*task), text)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def progress(experiment: Experiment, stage: str) -> Progress:
    return next(found for found in read_status(experiment).stages if found.stage == stage)


def test_at_first_every_job_is_missing_and_no_time_is_known(experiment):
    found = read_status(experiment)

    assert {stage.stage: stage.missing for stage in found.stages} == {
        "class_images": 1,
        "data": 2,
        "references": 1,
        "protect": 4,
        "purify": 4,
        "distances": 4,
        "personalise": 8,
        "score": 8,
        "tables": 1,
        "report": 1,
    }
    assert not found.known
    assert found.as_data()["seconds_left"] is None


def test_the_time_left_is_that_of_finished_jobs_of_the_same_method(experiment):
    finish(experiment, tasks(experiment, "protect", identity="anna", protection="noise"), 2)
    finish(experiment, tasks(experiment, "protect", identity="anna", protection="aspl"), 100)

    found = progress(experiment, "protect")
    assert (found.done, found.missing, found.seconds) == (2, 2, 102)


def test_a_method_without_finished_jobs_counts_with_the_mean_of_its_stage(experiment):
    finish(experiment, tasks(experiment, "protect", identity="anna", protection="noise"), 30)

    assert progress(experiment, "protect").seconds == 3 * 30


def test_class_images_are_no_stage_where_nothing_needs_them(config):
    without = {"method": "dreambooth", "prior_weight": 0}

    assert "class_images" in all_tasks(Experiment.parse(config | {"protections": ["noise"]}))
    needless = config | {"protections": ["noise"], "trainers": [without]}
    assert "class_images" not in all_tasks(Experiment.parse(needless))


def test_class_images_are_those_of_the_models_that_train(config, tiny_model):
    models = {**config["models"], "other": tiny_model.model_dump()}
    protections = ["clean", {"method": "pid", "model": "other"}]
    made = all_tasks(Experiment.parse(config | {"models": models, "protections": protections}))

    assert [task.cell.model for task in made["class_images"]] == [config["model"]]


def test_references_are_no_stage_where_no_metric_needs_them(config):
    tasks = all_tasks(Experiment.parse(config | {"metrics": ["brisque"], "identities": ["anna"]}))

    assert "references" not in tasks
    assert [task.cell.identity for task in tasks["data"]] == ["anna"], "nobody else is read"


@pytest.mark.parametrize(
    ("kept", "stage", "done"),
    [
        (False, "personalise", {"personalise": 1}),
        (True, "sample", {"personalise": 0, "sample": 1}),
        (True, "personalise", {"personalise": 1, "sample": 0}),
    ],
)
def test_sampling_is_a_stage_of_its_own_where_weights_are_kept(kept, stage, done, config):
    experiment = Experiment.parse(config | {"keep_weights": kept})
    finish(experiment, tasks(experiment, stage)[:1])

    stages = {found.stage: found for found in read_status(experiment).stages}
    counted = {name: stages[name].done for name in ("personalise", "sample") if name in stages}
    assert counted == done


OF_CDL = {
    "sampled otherwise": {"negative_in_sampling": False, "negative_prompt": "grainy"},
    "trained otherwise": {"learning_rate": 0.5},
}


@pytest.mark.parametrize(
    ("kept", "other", "trained"),
    [
        (True, "sampled otherwise", ["cdl", "dreambooth"]),
        (True, "trained otherwise", ["cdl", "other", "dreambooth"]),
        (False, "sampled otherwise", ["cdl", "other", "dreambooth"]),
    ],
)
def test_trainers_that_differ_in_sampling_alone_share_kept_weights(kept, other, trained, config):
    trainers = ["cdl", {"name": "other", "method": "cdl", **OF_CDL[other]}, "dreambooth"]
    experiment = Experiment.parse(config | {"keep_weights": kept, "trainers": trainers})
    labels = {"identity": "anna", "protection": "noise"}

    assert [task.label for task in tasks(experiment, "personalise", **labels)] == trained
    for task in tasks(experiment, "sample", **labels) if kept else []:
        [(training, weights)] = inputs(task, experiment).values()
        assert weights == result(training, experiment).parent
        assert training in tasks(experiment, "personalise")


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("loading\nerror: the disk is full.\n", "error: the disk is full."),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'\n", "KeyError: 'x'"),
    ],
)
def test_a_job_without_a_result_whose_log_ends_in_an_error_has_failed(log, error, experiment):
    jobs = tasks(experiment, "protect", identity="anna")
    fail(experiment, jobs[:1], log)
    fail(experiment, jobs[1:], "40 %|####")

    found = read_status(experiment)
    counts = {stage.stage: (stage.failed, stage.missing) for stage in found.stages}
    assert counts["protect"] == (1, 3)
    assert [failure.error for failure in found.failures] == [error]


def test_a_job_that_succeeded_after_a_failure_is_done(experiment):
    jobs = tasks(experiment, "protect", identity="anna")
    fail(experiment, jobs, "error: the disk is full.\n")
    finish(experiment, jobs)

    found = progress(experiment, "protect")
    assert (found.done, found.failed) == (2, 0)


def test_a_result_of_another_config_is_missing_and_the_difference_is_said(config, experiment):
    finish(experiment, tasks(experiment, "protect"))
    noise = {"name": "noise", "method": "noise", "budget": "5/255"}

    found = read_status(Experiment.parse(config | {"protections": [noise, "aspl"]}))

    protect = next(stage for stage in found.stages if stage.stage == "protect")
    assert (protect.done, protect.missing) == (2, 2)
    assert [line.partition("protected/")[2] for line in found.outdated] == [
        'noise/job.json: settings: budget was "11/255", not "5/255"'
    ] * 2


def test_the_command_shows_a_table_the_failures_and_the_time_left(
    config, experiment, tmp_path, capsys
):
    finish(experiment, tasks(experiment, "protect", identity="anna"), 3600)
    fail(experiment, tasks(experiment, "protect", identity="bert"), "error: no [face].\n")

    print_status(read_status(experiment), at_once=2)
    shown = capsys.readouterr().out
    assert "anna" not in shown
    assert shown.count("error: no [face].") == 2
    assert "1 h 00 min or more left with 2 jobs at a time" in shown
    assert "`cloakbench plan` counts how long it takes" in shown

    (tmp_path / "config.yaml").write_text(json.dumps(config))
    result = CliRunner().invoke(app, ["status", str(tmp_path / "config.yaml"), "--json"])
    said = json.loads(result.output)
    protect = next(stage for stage in said["stages"] if stage["stage"] == "protect")
    assert protect == {
        "stage": "protect",
        "jobs": 4,
        "done": 2,
        "missing": 0,
        "failed": 2,
        "seconds_left": 7200,
    }
    assert [failure["error"] for failure in said["failures"]] == ["error: no [face]."] * 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (0, ""),
        (20, "< 1 min"),
        (3599, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (200000, "2 d 07 h"),
    ],
)
def test_times_are_said_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_grid_of_20000_cells_takes_seconds(config):
    numbers = range(1, 11)
    experiment = Experiment.parse(
        config
        | {
            "identities": [f"person_{number}" for number in range(20)],
            "protections": [{"name": f"p{n}", "method": "noise", "budget": n} for n in numbers],
            "purifications": [{"name": f"q{n}", "method": "jpeg", "quality": n} for n in numbers],
            "trainers": [{"name": f"t{n}", "method": "dreambooth", "steps": n} for n in numbers],
        }
    )

    begun = time.process_time()
    found = read_status(experiment)
    assert time.process_time() - begun < 20
    assert next(s.missing for s in found.stages if s.stage == "score") == 20_000


def test_no_large_library_is_loaded():
    names = "cloakbench.cli, cloakbench.experiment.status, cloakbench.experiment.experiment"
    code = f"import sys, {names}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not set(run.stdout.split()) & {"torch", "diffusers", "pandas", "snakemake", "matplotlib"}


def test_it_counts_as_snakemake_plans(workflow: Workflow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workflow.folder)
    protections = ["clean", "noise", "aspl"]
    planned: dict[str, int] = {}
    for rule, jobs in workflow.planned(protections=protections).items():
        stage = rule.removesuffix("_quick")
        planned[stage] = planned.get(stage, 0) + jobs

    found = read_status(Experiment.load(Path("config.yaml"), Path("tiny.yaml")))
    missing = {stage.stage: stage.missing for stage in found.stages if stage.missing}
    assert missing | {"tables": 1, "report": 1} == planned  # both are there, and out of date
    assert not found.failures


def test_the_benchmark_of_large_grids_has_finished_results(tmp_path, monkeypatch):
    """As current as those of jobs, or else what is measured is how outdated ones are told."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    grid = importlib.import_module("grid")
    config = grid.make_config(tmp_path, identities=2, per_axis=2)
    grid.make_photos(config)
    experiment = Experiment.parse(config | {"results": tmp_path / "results"})

    grid.make_results(experiment, 0.5)

    done = {stage.stage: (stage.done, stage.jobs) for stage in read_status(experiment).stages}
    assert done["data"] == (2, 2)
    assert done["protect"] == (2, 4)
    assert done["score"] == (8, 16)
