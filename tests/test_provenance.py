"""Provenance: everything that a number depends on, and nothing about whose machine it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Workflow

from cloakbench.experiment import provenance
from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.provenance import as_markdown, make_provenance, write_provenance
from cloakbench.experiment.tasks import all_tasks, manifest
from cloakbench.models.spec import ModelSpec
from cloakbench.running.benchmark import Measurement, write_benchmark
from cloakbench.running.machine import environment
from cloakbench.score.references import IdentityReference, References


@pytest.fixture
def config(dataset: Path, tiny_model: ModelSpec, tmp_path: Path) -> dict[str, Any]:
    return {
        "experiment": "study",
        "results": str(tmp_path / "results"),
        "seeds": [7],
        "model": "tiny",
        "models": {"tiny": {"path": tiny_model.path, "resolution": 64}},
        "dataset": "people",
        "datasets": {"people": {"path": str(dataset)}},
        "preset": "tiny",
        "protections": ["noise", {"name": "aspl-4", "method": "aspl", "budget": "4/255"}],
        "purifications": ["none", ["resize", "jpeg"]],
        "trainers": ["dreambooth"],
    }


@pytest.fixture
def experiment(config: dict[str, Any]) -> Experiment:
    return Experiment.parse(config)


def leave(experiment: Experiment, stage: str, seconds: list[float], **said: Any) -> None:
    """A benchmark and a manifest of each of a stage's first jobs."""
    expected = Expected(experiment)
    for task, took in zip(all_tasks(experiment)[stage], seconds, strict=False):
        made = expected.record(task).manifest() | {"files": {}} | said
        write_benchmark(experiment.layout.benchmark(*task), Measurement(took, 1.0, 100 * took))
        path = manifest(task, experiment)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made))


def test_it_says_in_how_many_reference_photos_a_face_was_found(experiment):
    assert "clean photos" not in as_markdown(make_provenance(experiment))
    people = {
        name: IdentityReference(embedding=(0.0, 1.0), photos=4, faces=faces)
        for name, faces in (("anna", 4), ("bert", 3))
    }
    path = experiment.layout.references(experiment.cells()[0])
    References(backend={}, identities=people, calibration=None).write(path, {"stage": "references"})

    said = as_markdown(make_provenance(experiment))

    assert "Of 8 clean photos" in said
    assert "dlib finds a face in 7." in said


def test_its_config_runs_the_same_experiment(experiment):
    again = Experiment.parse(make_provenance(experiment)["config"])

    assert again.cells() == experiment.cells()
    assert again.protections == experiment.protections
    assert again.purifiers == experiment.purifiers
    assert again.trainers == experiment.trainers
    assert again.metrics == experiment.metrics
    assert again.config.prompts == experiment.config.prompts
    assert again.config.seeds == [7]


def test_code_that_was_edited_anywhere_is_told(tmp_path):
    source = tmp_path / "src"
    shutil.copytree(
        REPOSITORY / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)

    def changed() -> str:
        code = "from cloakbench.experiment.provenance import software; print(software()['changed'])"
        environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, env=environment, text=True).strip()

    assert changed() == "False"
    with (source / "cloakbench" / "protect" / "pid.py").open("a") as file:
        file.write("\n# another line\n")
    assert changed() == "True"


def test_it_names_no_place_and_no_host(experiment, tmp_path):
    write_provenance(experiment, tmp_path)

    for name in ("provenance.json", "provenance.md"):
        text = (tmp_path / name).read_text()
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text
        assert socket.gethostname() not in text
        assert "tiny" in text


def test_paths_below_the_working_folder_stay_relative_to_it(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert make_provenance(experiment)["config"]["results"] == "results"


def test_weights_are_those_that_results_say_they_were_made_with(config, tiny_model, tiny_weights):
    """And not those that lie there now, which others may have taken the place of."""
    experiment = Experiment.parse(config | {"purifications": ["none", "diffpure"]})
    leave(experiment, "personalise", [1])
    leave(experiment, "purify", [1, 1])
    unet = Path(tiny_model.path) / "unet" / "diffusion_pytorch_model.safetensors"
    digest, before = hashlib.sha256(unet.read_bytes()).hexdigest(), unet.read_bytes()
    unet.write_bytes(b"other")

    try:
        weights = make_provenance(experiment)["weights"]
    finally:
        unet.write_bytes(before)
    assert weights["tiny/unet/diffusion_pytorch_model.safetensors"] == digest
    assert "tiny_ddpm/unet/diffusion_pytorch_model.safetensors" in weights
    assert {Path(name).suffix for name in weights} == {".safetensors"}


def test_time_and_memory_are_summed_by_stage_and_method(experiment):
    leave(experiment, "protect", [1, 4, 3])  # anna's noise and aspl-4, bert's noise

    rows = {(row["stage"], row["method"]): row for row in provenance.costs(experiment)}
    assert set(rows) == {("protect", "noise"), ("protect", "aspl-4")}
    assert rows["protect", "noise"] == {
        "stage": "protect",
        "method": "noise",
        "jobs": 2,
        "seconds_mean": 2,
        "seconds_max": 3,
        "seconds_total": 4,
        "memory_mb_mean": 200,
        "memory_mb_max": 300,
    }


def test_machines_are_those_that_made_the_results(experiment):
    machine = environment("cpu")
    other = machine | {"gpu": "NVIDIA A100"}
    leave(experiment, "protect", [1, 1])
    leave(experiment, "personalise", [1], ran_on=other)

    assert make_provenance(experiment)["environments"] == [
        {**machine, "jobs": {"protect": 2}},
        {**other, "jobs": {"personalise": 1}},
    ]
    assert machine["cores"] >= 1
    assert machine["memory_gb"] >= 1
    assert {"torch", "diffusers"} <= machine["packages"].keys()


def test_parts_that_were_made_elsewhere_are_named_with_their_machines_and_weights(experiment):
    leave(experiment, "protect", [1])
    here = make_provenance(experiment)
    [machine] = here["environments"]
    first, second = (
        here
        | {"software": here["software"] | {"commit": commit}}
        | {"environments": [machine | {"cpu": cpu}], "weights": {name: "12ab"}}
        for commit, cpu, name in (("c0ffee", "Xeon", "a.onnx"), ("beef", "Ryzen", "b.onnx"))
    )
    joined = make_provenance(experiment, [second]) | {"software": first["software"]}

    made = make_provenance(experiment, [joined])  # of a part that was pooled itself

    assert {"b.onnx"} <= made["weights"].keys()
    assert [len(part["pooled"]) for part in made["pooled"]] == [0, 0]
    text = as_markdown(made)
    assert "c0ffee, beef" in text
    assert "| Ryzen |" in text
    assert "| b.onnx | `12ab` |" in text


def test_for_readers_nothing_is_html_or_ends_a_cell_or_the_config(experiment):
    made = make_provenance(experiment)
    made["config"]["prompts"]["instance"] = "a\n```\n<script>"
    made["weights"] = {"a|b<i>": "0"}

    text = as_markdown(made)

    assert r"| a\|b&lt;i&gt; | `0` |" in text
    assert re.search(r"^(`{4,})yaml\n(?s:.*<script>.*)\n\1$", text, re.MULTILINE)


def test_a_run_of_the_workflow_leaves_it_beside_the_tables(workflow: Workflow):
    folder = workflow.folder / "results" / "tables" / "tiny"
    made = json.loads((folder / "provenance.json").read_text())

    assert str(workflow.folder) not in json.dumps(made["config"]["results"])
    assert {"torch", "diffusers", "snakemake"} <= set(made["software"]["packages"])
    assert {row["stage"]: row["jobs"] for row in made["costs"] if row["method"] == ""} == {
        "class_images": 1,
        "data": 2,
        "references": 1,
    }
    (machine,) = made["environments"]
    assert machine["jobs"] == {
        "class_images": 1,
        "data": 2,
        "references": 1,
        "protect": 2,
        "purify": 2,
        "distances": 2,
        "personalise": 4,
        "sample": 4,
        "score": 4,
    }
    text = (folder / "provenance.md").read_text()
    assert "| personalise | cdl | 2 |" in text
    assert "torch " in text
