"""The whole workflow with a tiny model: what runs, what does not, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import BUNDLED, REPOSITORY, Workflow
from PIL import Image
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.running.run import DIGESTS


def test_it_ends_in_tables_and_a_report(workflow):
    results = workflow.folder / "results"
    summary = pd.read_csv(results / "tables" / "tiny" / "summary.csv")

    assert {"clean", "noise"} == set(summary["protection"])
    assert {"dreambooth", "cdl"} == set(summary["trainer"])
    assert summary["clip_iqac"].between(-1, 1).all()
    assert "noise" in (results / "report" / "tiny" / "index.html").read_text()
    assert len(list(results.rglob("generated/*/*/*/photo/000.png"))) == 4


def test_a_run_ends_by_naming_its_report(workflow):
    assert "tiny (model mini" in workflow.said
    assert workflow.said.splitlines()[-1] == "report: results/report/tiny/index.html"


def test_it_crops_to_the_models_resolution_and_leaves_no_checkpoints(workflow):
    results = workflow.folder / "results"

    photo = next(iter(results.rglob("protected/noise/*.png")))
    assert Image.open(photo).size == (128, 128)
    assert [path.name for path in (results / ".scratch").rglob("*") if path.is_file()] == [DIGESTS]


def test_a_second_run_does_nothing(workflow):
    assert workflow.planned() == {}


def test_another_protection_runs_only_its_own_cells(workflow):
    assert workflow.planned(protections=["clean", "noise", "aspl"]) == {
        "protect": 1,
        "purify_quick": 1,
        "distances": 1,
        "personalise": 2,
        "sample": 2,
        "score": 2,
        "tables": 1,
        "report": 1,
    }


def test_an_unfinished_run_has_tables_and_a_report_of_what_is_scored_so_far(workflow, monkeypatch):
    workflow.planned(protections=["clean", "noise", "aspl"])
    monkeypatch.chdir(workflow.folder)
    with pytest.raises(CloakBenchError, match=r"4 of 6 cells of 'tiny' have been scored\. "):
        CliRunner().invoke(app, ["tables", "config.yaml", "tiny.yaml"], catch_exceptions=False)

    for name in ("tables", "report"):
        command = [name, "config.yaml", "tiny.yaml", "--so-far"]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0

    results = workflow.folder / "results"
    summary = pd.read_csv(results / "tables" / "tiny-so-far" / "summary.csv")
    whole = pd.read_csv(results / "tables" / "tiny" / "summary.csv")
    pd.testing.assert_frame_equal(summary, whole)
    assert "noise" in (results / "report" / "tiny-so-far" / "index.html").read_text()
    person, out = workflow.config["identities"][0], workflow.folder / "so-far.png"
    command = ["picture", "config.yaml", "tiny.yaml", "--identity", person, "--out", str(out)]
    CliRunner().invoke(app, [*command, "--so-far"], catch_exceptions=False)
    assert Image.open(out).height > 4 * 128  # the photos, and a row for each scored cell
    assert workflow.planned() == {}

    workflow.planned(protections=["aspl"])
    with pytest.raises(CloakBenchError, match="no cell of 'tiny' has been scored yet"):
        CliRunner().invoke(
            app, ["report", "config.yaml", "tiny.yaml", "--so-far"], catch_exceptions=False
        )


def test_tables_of_another_machine_are_enough_for_the_same_tables(workflow, monkeypatch, tmp_path):
    workflow.planned()  # the config as it ran
    monkeypatch.chdir(workflow.folder)
    there, empty = workflow.folder / "results" / "tables" / "tiny", tmp_path / "empty.yaml"
    empty.write_text(yaml.safe_dump({"results": str(tmp_path / "empty")}))

    command = ["tables", "config.yaml", "tiny.yaml", str(empty), "--pool", str(there)]
    CliRunner().invoke(app, command, catch_exceptions=False)

    made = tmp_path / "empty" / "tables" / "tiny-so-far"
    for name in ("images.csv", "identities.csv", "summary.csv", "contrasts.csv", "photos.csv"):
        assert (made / name).read_bytes() == (there / name).read_bytes()
    assert "are pooled with those" in (made / "provenance.md").read_text()


def test_the_floor_is_sampled_once_per_person(workflow):
    planned = workflow.planned(trainers=["dreambooth", "cdl", "none"])

    assert (planned["personalise"], planned["sample"], planned["score"]) == (1, 1, 1)


def test_pictures_without_faces_need_no_references(workflow):
    planned = workflow.planned(metrics=["brisque", "clip_prompt"])

    assert planned == {"score": 4, "distances": 2, "tables": 1, "report": 1}


@pytest.mark.parametrize(
    ("metric", "score", "distances"), [("brisque", "0", "0"), ("lpips", "0", "1"), ("q", "1", "1")]
)
def test_scoring_asks_for_a_gpu_where_a_metric_is_slow_without(
    metric, score, distances, tiny_model, tiny_weights, tmp_path
):
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    grid = {"protections": ["clean"], "purifications": ["none"], "trainers": ["dreambooth"]}
    places = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 256}},
        "datasets": {"bundled": {"path": str(BUNDLED)}},
    }
    workflow = Workflow(tmp_path, {"preset": "tiny", "metrics": ["fdfr", metric], **grid, **places})

    plan = workflow.snakemake("--dry-run", "--workflow-profile", "none")

    assert plan.returncode == 0, plan.stdout + plan.stderr
    asked = re.findall(r"rule (score|distances):.*?gpu=(\d)", plan.stdout + plan.stderr, re.DOTALL)
    assert dict(asked) == {"score": score, "distances": distances}


def test_another_setting_of_a_protection_runs_only_its_own_cells(workflow):
    planned = workflow.planned(protections=["clean", {"method": "noise", "budget": "5/255"}])

    assert planned["protect_quick"] == planned["purify_quick"] == 1
    assert planned["personalise"] == planned["sample"] == 2
    assert "data" not in planned


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": {"images": 3, "batch_size": 4, "steps": 3, "sampler": "ddim"}},
        {"prompts": {"sample": {"photo": "a dslr portrait of {identifier} {class_noun}"}}},
    ],
    ids=["images and steps", "prompt"],
)
def test_what_only_sampling_reads_reruns_only_sampling_and_what_follows(changes, workflow):
    planned = workflow.planned(**changes)

    assert planned == {"sample": 4, "score": 4, "tables": 1, "report": 1}


def test_a_switch_of_cdls_sampling_retrains_nothing(workflow):
    trainers = ["dreambooth", {"method": "cdl", "suffix_in_sampling": False}]

    assert workflow.planned(trainers=trainers) == {
        "sample": 2,
        "score": 2,
        "tables": 1,
        "report": 1,
    }


def begin(workflow: Workflow, results: str) -> None:
    """Results in another folder as far as those that are there go: up to the purified photos."""
    later = shutil.ignore_patterns("personalised", "generated", "scores")
    finished = workflow.folder / "results" / "mini"
    shutil.copytree(finished, workflow.folder / results / "mini", ignore=later)


def test_without_weights_to_keep_one_job_trains_and_samples_the_same_images(workflow):
    changes = {"results": "light", "keep_weights": False, "protections": ["noise"]}
    begin(workflow, "light")
    run = workflow.snakemake("--until", "personalise", **changes)
    assert run.returncode == 0, run.stdout + run.stderr

    light = workflow.folder / "light"
    paths = [p.relative_to(light) for p in sorted(light.rglob("generated/noise/**/*.png"))]
    assert len(paths) == 2
    for path in paths:
        assert (light / path).read_bytes() == (workflow.folder / "results" / path).read_bytes()
    assert not list(light.rglob("*.safetensors"))
    assert not {"personalise", "sample"} & workflow.planned(**changes).keys()


def test_one_training_makes_the_samples_of_all_its_snapshots_and_a_curve(workflow, monkeypatch):
    learning = {"method": "dreambooth", "steps": 3, "snapshots": [1, 2]}
    changes = {"results": "learning", "keep_weights": False, "protections": ["clean"]}
    changes |= {"trainers": [learning]}
    begin(workflow, "learning")
    run = workflow.snakemake(**changes)
    assert run.returncode == 0, run.stdout + run.stderr

    results = workflow.folder / "learning"
    assert [p.stem for p in results.glob("benchmarks/**/personalise/**/*.tsv")] == ["dreambooth"]
    tables = results / "tables" / "tiny"
    assert [*pd.read_csv(tables / "summary.csv")["trainer"]] == [
        *("dreambooth@1", "dreambooth@2", "dreambooth"),
    ]
    assert "training steps" in (results / "report" / "tiny" / "curves.svg").read_text()
    assert (pd.read_csv(tables / "purifiers.csv")["seconds"] > 0).all()
    assert workflow.planned(**changes) == {}

    monkeypatch.chdir(workflow.folder)
    seen = CliRunner().invoke(app, ["clip", "config.yaml", "tiny.yaml"], catch_exceptions=False)
    assert "images → learning/clip/tiny/space.svg" in seen.output
    groups = pd.read_csv(results / "clip" / "tiny" / "groups.csv")
    assert [*groups["name"]] == ["clean / none", *(f"clean / none / {name}" for name in (
        "dreambooth@1", "dreambooth@2", "dreambooth",
    ))]  # fmt: skip
    told = ["of", "name", "people", "cosine", "low", "high"]
    assert groups.drop(columns=told).sum(axis=1).tolist() == pytest.approx([1] * 4)
    refused = CliRunner().invoke(app, ["clip", "config.yaml", "tiny.yaml", "--out", str(tables)])
    assert f"{tables / 'images.csv'}: is there already" in str(refused.exception)


@contextmanager
def changed(path: Path, content: bytes, age: float = 0) -> Iterator[None]:
    """Another content inside, `age` seconds older than the file was; as before afterwards."""
    before, stored = path.read_bytes(), path.stat()
    path.write_bytes(content)
    if age:
        os.utime(path, (stored.st_atime - age, stored.st_mtime - age))
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stored.st_atime_ns, stored.st_mtime_ns))


def test_a_changed_photo_of_another_identity_reruns_its_crop_and_the_references(workflow):
    """Everyone in the dataset is a possible answer to "who is this?"."""
    chosen = workflow.config["identities"]
    photos = sorted((workflow.folder / "identities").glob("*/set_C/*.jpg"))
    first, second = [path for path in photos if path.parts[-3] not in chosen][:2]
    with changed(first, second.read_bytes()):
        planned = workflow.planned()

    assert planned == {"data": 1, "references": 1, "score": 4, "tables": 1, "report": 1}


@pytest.mark.parametrize(("options", "left"), [((), sys.maxsize), (("60/1m",), 60)])
def test_snakemake_counts_the_jobs_of_a_second_only_if_asked(workflow, tmp_path, options, left):
    """Else it looks at all ready jobs once more for each that has ended, every second."""
    [identity] = workflow.config["identities"]
    results, asked = str(tmp_path), [f"--max-jobs-per-timespan={each}" for each in options]
    target = f"{results}/mini/bundled/{identity}/data/job.json"

    run = workflow.snakemake("--verbose", target, *asked, results=results)

    said = re.findall(r"after job selection: .*'_job_count': (\d+)", run.stdout + run.stderr)
    assert set(map(int, said)) == {left}


def test_a_photo_that_came_with_an_older_time_is_noticed(workflow):
    """As `cp -a`, an archive or a backup leave it."""
    [identity] = workflow.config["identities"]
    first, second, *_ = sorted((workflow.folder / "identities" / identity / "set_B").glob("*.jpg"))
    with changed(first, second.read_bytes(), age=1000):
        planned = workflow.planned()

    assert planned["data"] == 1
    assert planned["protect_quick"] == planned["purify_quick"] == 2


def test_what_changed_is_not_forgotten_by_a_run_that_stopped_early(workflow):
    """Snakemake takes a file for unchanged whose checksum is, so manifests must tell contents."""
    [identity] = workflow.config["identities"]
    until, changes = ("--until", "distances"), {"results": "stopped", "metrics": ["brisque"]}
    assert workflow.snakemake(*until, **changes).returncode == 0
    assert workflow.planned(*until, **changes) == {}
    first, second, *_ = sorted((workflow.folder / "identities" / identity / "set_B").glob("*.jpg"))
    with changed(first, second.read_bytes()):
        assert workflow.snakemake("--until", "data", **changes).returncode == 0
        planned = workflow.planned(*until, **changes)
        rest = workflow.snakemake(*until, **changes)

    assert planned == {"protect_quick": 2, "purify_quick": 2, "distances": 2}
    left = re.findall(r"jobs done, (.*)", rest.stderr)
    assert set(left) == {"less than 1 min left"}, "known at once, by what the first run took"


def test_methods_without_a_model_do_not_depend_on_it_nor_on_prompts(workflow):
    models = {"mini": {**workflow.config["models"]["mini"], "precision": "bf16"}}
    prompts = {**workflow.config["prompts"], "identifier": "xyz"}

    for planned in (workflow.planned(models=models), workflow.planned(prompts=prompts)):
        assert planned["personalise"] == 4
        assert not {"data", "protect_quick", "purify_quick"} & planned.keys()
    assert "class_images" not in workflow.planned(prompts=prompts)


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_another_file_of_the_model_reruns_what_the_model_makes(name, workflow):
    path = workflow.folder / "model" / name
    with changed(path, path.read_bytes() + b" "):
        planned = workflow.planned()

    rerun = {"class_images": 1, "personalise": 4, "sample": 4, "score": 4, "tables": 1, "report": 1}
    assert planned == rerun
    assert workflow.planned() == {}


def test_without_a_prior_nobody_needs_class_images(workflow):
    prompts = {"class_noun": "dog"}  # of which there are none yet
    with_prior = workflow.planned(protections=["clean"], prompts=prompts)
    without = [{"method": "dreambooth", "prior_weight": 0}]

    assert with_prior["class_images"] == 1
    assert "class_images" not in workflow.planned(
        protections=["clean"], prompts=prompts, trainers=without
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"protections": ["alps"]},
            "error: unknown protection 'alps': did you mean 'aspl'",
        ),
        ({"identities": ["nobody"]}, "error: unknown identity 'nobody'"),
        (
            {"models": {"mini": {"path": "nowhere", "resolution": 64}}},
            "error: model nowhere: no such folder",
        ),
    ],
)
def test_a_mistake_is_one_clear_line_before_any_job(changes, message, workflow):
    run = workflow.snakemake(**changes)
    output = run.stdout + run.stderr

    assert run.returncode != 0
    assert message in output
    assert "Traceback" not in output
    assert "rule " not in output
