"""Transfer: photos are protected on one model, and another one learns them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Workflow

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.needs import Needs
from cloakbench.experiment.provenance import settings
from cloakbench.experiment.tasks import all_tasks, inputs
from cloakbench.models.spec import ModelSpec

OTHER = {"name": "aspl-other", "method": "aspl", "preset": "tiny", "model": "other"}


@pytest.fixture
def config(dataset: Path, tiny_model: ModelSpec, tiny_v_model: ModelSpec) -> dict[str, Any]:
    models = {"own": tiny_model, "other": tiny_v_model}
    return {
        "experiment": "transfer",
        "model": "own",
        "models": {name: model.model_dump(mode="json") for name, model in models.items()},
        "dataset": "faces",
        "datasets": {"faces": {"path": str(dataset)}},
        "protections": ["clean", {"method": "aspl", "preset": "tiny"}, OTHER],
        "purifications": ["none"],
        "trainers": ["dreambooth"],
        "class_images": {"images": 2, "steps": 2},
    }


def test_the_photos_are_made_on_the_one_and_learnt_by_the_other(config) -> None:
    experiment = Experiment.parse(config)
    expected, tasks = Expected(experiment), all_tasks(experiment)

    own, other = (expected.record(task).facts.model for task in tasks["class_images"])
    assert own != other
    for task in tasks["protect"]:
        model = {"clean": None, "aspl": own, "aspl-other": other}[task.label]
        assert expected.record(task).facts.model == model
    for task in tasks["personalise"]:
        assert expected.record(task).facts.model == own


def test_a_surrogates_class_images_are_its_own_models(config) -> None:
    experiment = Experiment.parse(config)
    tasks = all_tasks(experiment)

    assert [task.cell.model for task in tasks["class_images"]] == ["own", "other"]
    for task in tasks["protect"]:
        prior = inputs(task, experiment).get("class_images")
        model = {"clean": None, "aspl": "own", "aspl-other": "other"}[task.label]
        assert (prior and prior[0].cell.model) == model


def test_without_such_a_protection_no_other_model_is_looked_at(config) -> None:
    config["protections"].pop()
    config["models"]["other"]["path"] = "nowhere"

    Experiment.parse(config).check()

    config["protections"].append({"name": "other", "method": "advdm", "model": "other"})
    with pytest.raises(CloakBenchError, match="nowhere"):
        Experiment.parse(config).check()


def test_provenance_is_a_config_of_the_same_experiment(config) -> None:
    again = Experiment.parse(settings(Experiment.parse(config)) | {"datasets": config["datasets"]})

    assert again.surrogates == {"clean": "own", "aspl": "own", "aspl-other": "other"}


def test_the_plan_counts_on_that_model(config, tmp_path: Path) -> None:
    config["results"] = str(tmp_path)
    experiment = Experiment.parse(config)
    keys = [Needs(experiment)._key(task, False) for task in all_tasks(experiment)["protect"]]

    assert len(set(keys[:3])) == 3


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (OTHER | {"model": "nobody"}, "config: protections: unknown model 'nobody': "),
        ({"method": "clean", "name": "x", "model": "other"}, "'x' runs no model. Leave out"),
    ],
)
def test_a_model_that_cannot_be_meant_is_named(config, entry, line: str) -> None:
    with pytest.raises(CloakBenchError, match=line):
        Experiment.parse(config | {"protections": ["aspl", entry]})


def test_a_model_of_another_resolution_is_named(config) -> None:
    config["models"]["other"]["resolution"] = 128

    with pytest.raises(CloakBenchError, match="'other' makes 128 px, and 'own' 64 px"):
        Experiment.parse(config).check()


def test_the_workflow_makes_them(workflow: Workflow, tiny_v_model: ModelSpec, tmp_path: Path):
    folder = tmp_path / "transfer"
    shutil.copytree(workflow.folder, folder, ignore=shutil.ignore_patterns(".snakemake"))
    changes: dict[str, Any] = {
        "datasets": {"bundled": {"path": str(folder / "identities")}},
        "models": workflow.config["models"]
        | {"other": {"path": tiny_v_model.path, "resolution": 128}},
        "protections": ["clean", "noise", OTHER],
    }
    copied = Workflow(folder, workflow.config)

    assert copied.planned(**changes)["class_images"] == 1  # the other model's
    run = copied.snakemake("--until", "protect", **changes)

    assert run.returncode == 0, run.stdout + run.stderr
    results = folder / "results"
    [made] = results.glob("mini/bundled/*/seed_0/protected/aspl-other/job.json")
    own, other, used = (
        json.loads(path.read_text("utf-8"))["model"]
        for path in (
            results / "mini" / "class_images" / "person" / "job.json",
            results / "other" / "class_images" / "person" / "job.json",
            made,
        )
    )
    assert used == other != own
