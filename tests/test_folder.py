"""Photos that another tool has finished: matched, measured, refused, and made again if changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workflow
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.tasks import Task, all_tasks
from cloakbench.files.layout import Cell
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.running.run import Run
from cloakbench.stages.protect import protect
from cloakbench.stages.purify import purify

MODEL = ModelSpec(path="nowhere", resolution=64)  # which nothing here loads


@pytest.fixture
def tool(dataset: Path, tmp_path: Path) -> Path:
    """What a tool made of two people's photos: up to 9 levels darker, in two formats."""
    for person in ("anna", "bert"):
        (tmp_path / "tool" / person).mkdir(parents=True)
        for number, path in enumerate(sorted((dataset / person / "set_B").glob("*.png"))):
            levels = np.asarray(Image.open(path), np.int16) - 9
            made = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
            suffix = "bmp" if number else "png"
            made.save(tmp_path / "tool" / person / f"{path.stem}.{suffix}")
    return tmp_path / "tool"


def protected(dataset: Path, folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    protect(
        {"method": "folder", "path": str(folder), **settings},
        model=MODEL,
        prompts=Prompts(),
        instance=dataset / "anna" / "set_B",
        surrogate=None,
        class_images=None,
        run=Run(out, "anna"),
    )
    return json.loads((out / "job.json").read_text())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_finished_photos_are_taken_as_they_are_and_measured(dataset, tool, tmp_path):
    said = protected(dataset, tool / "anna", tmp_path / "out")

    for path in (tool / "anna").iterdir():
        assert np.array_equal(pixels(tmp_path / "out" / f"{path.stem}.png"), pixels(path))
    assert said["notes"]["linf"] == 9
    assert 28 < said["notes"]["psnr"] < 40
    assert str(tmp_path) not in json.dumps(said)


def test_a_budget_is_enforced_only_if_it_is_given(dataset, tool, tmp_path):
    protected(dataset, tool / "anna", tmp_path / "out", budget="9/255")

    with pytest.raises(CloakBenchError, match="01 differs by 9/255 from its original, the budget"):
        protected(dataset, tool / "anna", tmp_path / "other", budget="8/255")
    assert not (tmp_path / "other").exists()


def test_purified_photos_are_read_in_the_same_way(dataset, tool, tmp_path):
    spec = {"method": "folder", "path": str(tool / "anna")}
    run = Run(tmp_path / "out", "anna")

    purify(spec, model=MODEL, photos=dataset / "anna" / "set_B", run=run)

    assert np.array_equal(pixels(tmp_path / "out" / "02.png"), pixels(tool / "anna" / "02.bmp"))
    assert json.loads((tmp_path / "out" / "job.json").read_text())["notes"]["linf"] == 9


def test_photos_under_each_others_names_are_noticed(dataset, tool, tmp_path):
    (tool / "anna" / "01.png").rename(tool / "anna" / "03.png")
    Image.open(tool / "anna" / "02.bmp").save(tool / "anna" / "01.png")
    (tool / "anna" / "03.png").rename(tool / "anna" / "02.png")
    (tool / "anna" / "02.bmp").unlink()

    with pytest.raises(CloakBenchError, match=r"01\.png: looks like 02, not like 01\. Check"):
        protected(dataset, tool / "anna", tmp_path / "out")


def test_finished_photos_are_no_link_of_a_chain_and_nothing_to_look_through(tool):
    spec = {"method": "folder", "path": str(tool)}

    with pytest.raises(CloakBenchError, match="'folder' works alone, in no list"):
        purifiers.build({"method": "chain", "steps": [spec, "jpeg"]})
    with pytest.raises(CloakBenchError, match="'folder' works alone, in no list"):
        protections.build({"method": "pid", "through": [spec]})


@pytest.fixture
def config(dataset: Path, tool: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "experiment": "study",
        "results": str(tmp_path / "results"),
        "model": "mini",
        "models": {"mini": {"path": "resources/mini", "resolution": 64}},
        "dataset": "people",
        "datasets": {"people": {"path": str(dataset)}},
        "protections": ["clean", {"name": "closed", "method": "folder", "path": str(tool)}],
        "purifications": ["none"],
        "trainers": ["dreambooth"],
        "metrics": ["brisque"],
    }


def check(config: dict[str, Any], **changes: Any) -> None:
    Experiment.parse(config | changes).check()


def add(tool: Path) -> None:
    Image.new("RGB", (64, 64)).save(tool / "anna" / "IMG_7.png")


def enlarge(tool: Path) -> None:
    for name in ("01.png", "02.bmp"):
        Image.open(tool / "anna" / name).resize((128, 64)).save(tool / "anna" / name)


def write_notes(tool: Path) -> None:
    (tool / "anna" / "notes.txt").write_text("intensity: high")


SPOILT = {
    "missing": (
        lambda tool: (tool / "anna" / "01.png").unlink(),
        [r"anna: has no 01\. Call each finished photo as the one .* \(01, 02\)"],
    ),
    "another": (add, [r"anna: holds IMG_7\.png\. Call each"]),
    "renamed": (
        lambda tool: (tool / "anna" / "01.png").rename(tool / "anna" / "1.png"),
        [r"anna: holds 1\.png and has no 01\. Call each"],
    ),
    "twice": (
        lambda tool: shutil.copy(tool / "anna" / "01.png", tool / "anna" / "01.jpg"),
        [r"anna: holds two photos of one name"],
    ),
    "larger": (
        enlarge,
        [r"01\.png: is 128x64 px, but .* is 64x64 px\. Give the tool", r"02\.bmp: is 128x64 px"],
    ),
    "format": (write_notes, [r"notes\.txt: not a photo"]),
    "nobody": (
        lambda tool: [shutil.rmtree(tool / who) for who in ("anna", "bert")],
        [r"anna: no such photo or folder of photos", r"bert: no such photo or folder of photos"],
    ),
    "broken": (
        lambda tool: (tool / "anna" / "01.png").write_bytes(b"text"),
        [r"01\.png: is not an image"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_folder_that_does_not_fit_is_told_before_anything_runs(what, config, tool):
    check(config)
    spoil, lines = SPOILT[what]
    spoil(tool)

    with pytest.raises(CloakBenchError) as caught:
        check(config)

    problems = str(caught.value).split("\nerror: ")
    assert len(problems) == len(lines)
    for problem, line in zip(problems, lines, strict=True):
        assert re.search(line, problem), problem


def test_a_folder_that_is_not_there_at_all_is_one_line(config, tool, tmp_path):
    entry = {"method": "folder", "path": str(tmp_path / "gone")}

    with pytest.raises(CloakBenchError, match="gone: no such folder of photos"):
        check(config, protections=["clean", entry], identities=["anna"])


def test_purified_photos_have_a_folder_for_each_protection(config, tool, tmp_path):
    entry = {"name": "theirs", "method": "folder", "path": str(tool)}
    changes = {"protections": ["clean", "noise"], "purifications": ["none", entry]}
    with pytest.raises(CloakBenchError) as caught:
        check(config, **changes)
    assert "read for the protections 'clean' and 'noise'" in str(caught.value)
    assert f"into {tool / 'noise' / 'anna'}, and so on" in str(caught.value)

    for protection in ("clean", "noise"):
        shutil.copytree(tool, tmp_path / "purified" / protection)
    entry["path"] = str(tmp_path / "purified")
    check(config, **changes)
    own = (
        Experiment.parse(config | changes)
        .purifiers["theirs"]
        .of(Cell("mini", "people", "bert", "0", "noise", "theirs", ""))
    )
    assert own.path == tmp_path / "purified" / "noise" / "bert"


def task(experiment: Experiment, identity: str) -> Task:
    [found] = [
        each
        for each in all_tasks(experiment)["protect"]
        if (each.cell.identity, each.cell.protection) == (identity, "closed")
    ]
    return found


def outdated(config: dict[str, Any], identity: str) -> str:
    experiment = Experiment.parse(config)
    return Expected(experiment).outdated(task(experiment, identity))


def test_a_changed_file_makes_its_person_anew_and_nobody_else(config, dataset, tool):
    experiment = Experiment.parse(config)
    for identity in ("anna", "bert"):
        cell = task(experiment, identity).cell
        record = Expected(experiment).record(task(experiment, identity))
        out = experiment.layout.protected(cell)
        out.mkdir(parents=True)
        (out / "job.json").write_text(json.dumps(record.manifest() | {"files": {}}))
        assert outdated(config, identity) == ""

    (tool / "anna" / "01.png").rename(tool / "anna" / "02.png")
    (tool / "anna" / "02.bmp").rename(tool / "anna" / "01.bmp")
    assert outdated(config, "anna") == "what is in its path has changed since"
    assert outdated(config, "bert") == ""


def test_a_moved_folder_makes_nothing_anew(config, tool, tmp_path):
    def key(**changes: Any) -> str:
        experiment = Experiment.parse(config | changes)
        return Expected(experiment).record(task(experiment, "anna")).key

    before = key()
    shutil.move(tool, tmp_path / "elsewhere")
    entry = {"name": "closed", "method": "folder", "path": str(tmp_path / "elsewhere")}

    assert key(protections=["clean", entry]) == before


def test_the_workflow_runs_it_and_runs_it_again_after_a_change(workflow: Workflow, tmp_path: Path):
    [identity] = workflow.config["identities"]
    prepared = workflow.folder / "results" / "mini" / "bundled" / identity / "data" / "set_B"
    shutil.copytree(prepared, tmp_path / "tool" / identity)
    entry = {"name": "closed", "method": "folder", "path": str(tmp_path / "tool")}
    changes = {"protections": ["clean", "noise", entry], "experiment": "closed"}
    until = ("--until", "distances")

    run = workflow.snakemake(*until, **changes)
    assert run.returncode == 0, run.stderr
    assert workflow.planned(*until, **changes) == {}

    first = min((tmp_path / "tool" / identity).iterdir())
    Image.open(first).point(lambda level: level // 2).save(first)
    planned = workflow.planned(*until, **changes)
    assert planned == {"protect_quick": 1, "purify_quick": 1, "distances": 1}
