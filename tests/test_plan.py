"""What an experiment will take, told before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY
from test_status import finish
from typer.testing import CliRunner

from cloakbench import counting
from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.needs import Need, Needs
from cloakbench.experiment.plan import CARDS, START, Card, Line, Plan, make_plan
from cloakbench.experiment.tasks import all_tasks
from cloakbench.models.architectures import HUB_IDS
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.protect.ensemble import STABLE_DIFFUSION

IMAGES = {"images": 4, "steps": 4, "sampler": "ddim", "batch_size": 2}


@pytest.fixture
def config(dataset: Path, tiny_model: ModelSpec, tmp_path: Path) -> dict[str, Any]:
    return {
        "experiment": "study",
        "results": str(tmp_path / "results"),
        "model": "tiny",
        "models": {"tiny": tiny_model.model_dump()},
        "dataset": "people",
        "datasets": {"people": {"path": str(dataset)}},
        "identities": ["anna"],
        "protections": ["noise"],
        "purifications": ["none"],
        "trainers": [{"method": "dreambooth", "steps": 5}],
        "class_images": IMAGES,
        "sampling": IMAGES,
    }


def plan(config: dict[str, Any], card: str = "cpu", **changes: Any) -> Plan:
    return make_plan(Experiment.parse({**config, **changes}), card)


def line(made: Plan, stage: str) -> Line:
    return next(each for each in made.lines if each.stage == stage)


def flops(made: Plan, stage: str) -> float:
    need = line(made, stage).need
    assert need is not None
    return need.flops


def test_every_job_is_there_and_what_runs_no_model_is_not_guessed(config):
    made = plan(config)

    assert {each.stage: each.left for each in made.lines} == {
        "class_images": 1,
        "data": 2,
        "references": 1,
        "protect": 1,
        "purify": 1,
        "distances": 1,
        "personalise": 1,
        "score": 1,
    }
    assert line(made, "protect").seconds is None
    assert not made.known
    assert made.missing == made.uncounted == []


def test_a_training_takes_as_many_flops_more_as_it_has_steps(config):
    """What is done once, such as encoding photos, is not counted again."""
    few, more, most = (
        flops(plan(config, trainers=[{"method": "dreambooth", "steps": steps}]), "personalise")
        for steps in (5, 10, 20)
    )

    assert most - more == pytest.approx(2 * (more - few))
    assert more < 2 * few


def test_images_take_what_their_steps_and_number_say(config):
    def sampled(**changes: Any) -> float:
        return flops(plan(config, class_images={**IMAGES, **changes}), "class_images")

    assert sampled(images=8) == pytest.approx(2 * sampled())
    assert sampled(steps=12) - sampled(steps=8) == pytest.approx(sampled(steps=8) - sampled())


def test_a_models_memory_is_at_least_that_of_its_weights(config, tiny_model):
    networks = load_model(tiny_model).networks
    weights = sum(p.nbytes for network in networks for p in network.parameters())

    need = line(plan(config), "class_images").need

    assert need is not None
    assert weights < need.device < 100 * weights


def test_time_is_counted_until_a_job_of_the_method_has_finished(config):
    experiment = Experiment.parse({**config, "identities": ["anna", "bert"]})
    counted = line(make_plan(experiment, "cpu"), "personalise")
    assert counted.seconds is not None
    assert counted.seconds > START
    assert not counted.measured

    tasks = all_tasks(experiment)["personalise"]
    finish(experiment, tasks[:1], seconds=77.0)

    measured = line(make_plan(experiment, "cpu"), "personalise")
    assert (measured.left, measured.seconds, measured.measured) == (1, 77.0, True)


def test_jobs_of_other_experiments_tell_what_the_same_settings_take(config):
    other = Experiment.parse({**config, "experiment": "other", "identities": ["bert"]})
    for tasks in all_tasks(other).values():
        finish(other, tasks, seconds=7.0)

    made = plan(config)
    changed = plan(config, protections=[{"method": "noise", "budget": "3/255"}])

    assert made.known
    assert {each.seconds for each in made.lines if each.left} == {7.0}
    assert line(changed, "protect").seconds is None


def test_what_was_counted_is_not_counted_again(config, monkeypatch):
    first = plan(config)
    monkeypatch.setattr(counting, "count", lambda *_, **__: pytest.fail("counted again"))

    assert plan(config) == first


def test_what_a_count_depends_on_is_counted_anew(config):
    """In one results folder, where what was counted before is kept."""
    prompts = {"sample": {"one": "a photo of {identifier} person"}}

    def trained(**changes: Any) -> float:
        return flops(plan(config, **changes), "personalise")

    assert trained(prompts=prompts) < trained()
    assert trained(class_images={**IMAGES, "images": 3}) < trained()


def test_snapshots_of_a_training_take_room_on_disk(config):
    def scratch(**settings: Any) -> float:
        trainer = {"method": "dreambooth", "steps": 5, **settings}
        return plan(config, trainers=[trainer]).scratch

    weights = line(plan(config, keep_weights=True), "personalise").disk
    assert scratch(snapshots=[2, 3]) - scratch() == 2 * weights


def test_a_large_card_computes_nothing_again(config):
    """So it needs more memory, and fewer operators."""
    config["models"]["tiny"]["precision"] = "bf16"

    small, large = (line(plan(config, card), "personalise").need for card in ("rtx4090", "h100"))

    assert small is not None
    assert large is not None
    assert small.operators > large.operators
    assert small.flops > large.flops
    assert small.device < large.device


def test_a_job_that_does_not_fit_the_card_is_counted_in_its_frugal_try(config, monkeypatch):
    monkeypatch.setitem(CARDS, "tiny", Card(bf16=1e12, fp32=1e12, memory=0))

    assert line(plan(config, "tiny"), "personalise").frugal


def test_what_ncnn_runs_is_counted_wherever_it_runs(config):
    """Real-ESRGAN x4plus, of 16.7 million weights nearly all of which meet every pixel; a
    protection that looks through it runs it for every photo at every step."""
    enlarging = {"method": "superres", "backend": "ncnn"}
    protection = {"method": "advdm", "steps": 5}

    plain = plan(config, protections=[protection], purifications=["none"])
    adaptive = plan(
        config, protections=[protection | {"through": [enlarging]}], purifications=[enlarging]
    )

    once = flops(adaptive, "purify") / 2  # of two photos
    assert once > 2 * 16.6e6 * (64 / 4) ** 2
    assert flops(adaptive, "protect") - flops(plain, "protect") == pytest.approx(
        5 * 2 * once, rel=0.01
    )


def test_kept_weights_need_their_bytes_of_disk(config, tiny_model):
    model = load_model(tiny_model)
    model.thaw("all")
    trained = sum(p.nbytes for p in model.trainable())

    assert line(plan(config, keep_weights=True), "personalise").disk == trained


def test_all_that_is_missing_is_said_at_once_and_the_rest_planned(config, tmp_path):
    missing = {"method": "diffpure", "weights": str(tmp_path / "nowhere")}

    made = plan(config, purifications=["none", missing], metrics=["ism", "liqe"])

    assert len(made.missing) == 4  # its weights, liqe's, its CLIP, and liqe's images
    assert line(made, "personalise").seconds is not None


def test_a_model_that_is_known_is_planned_before_it_is_downloaded(config):
    known = {"path": "stable-diffusion-v1-5/stable-diffusion-v1-5", "resolution": 64}

    made = plan(config, "h100", models={"tiny": known}, trainers=["none"])

    need = line(made, "personalise").need
    assert need is not None
    assert 4.2e9 < need.device < 6e9
    assert any("hf download" in line for line in made.missing)


def test_what_a_job_moves_and_writes_takes_time_on_a_card_and_room_on_disk(config, monkeypatch):
    bare = Need(flops=1e12, device=0, host=0)
    heavy = Need(flops=1e12, device=0, host=0, moved=1e12, written=1e11, checkpoint=10**10)

    def made(need: Need, card: str) -> Plan:
        monkeypatch.setattr(Needs, "of", lambda *_, **__: need)
        return plan(config, card)

    more = line(made(heavy, "h100"), "personalise").seconds
    less = line(made(bare, "h100"), "personalise").seconds
    assert more is not None
    assert less is not None
    assert more - less == pytest.approx(1e12 / 5e9 + 1e11 / 1e9)
    more = line(made(heavy, "cpu"), "personalise").seconds
    less = line(made(bare, "cpu"), "personalise").seconds
    assert more is not None
    assert less is not None
    assert more - less == pytest.approx(1e11 / 1e9)
    assert made(heavy, "cpu").scratch == 1.1e11


def test_a_card_is_no_faster_than_its_host_launches_kernels(config, monkeypatch):
    seconds = {}
    for operators in (0, 10**7):
        need = Need(flops=1e15, device=0, host=0, operators=operators)
        monkeypatch.setattr(Needs, "of", lambda *_, need=need, **__: need)
        for card in ("h100", "rtx3090", "cpu"):
            seconds[card, operators] = line(plan(config, card), "personalise").seconds

    assert seconds["h100", 0] < seconds["rtx3090", 0] < seconds["cpu", 0]
    assert seconds["h100", 10**7] == seconds["rtx3090", 10**7] > seconds["rtx3090", 0]
    assert seconds["cpu", 10**7] == seconds["cpu", 0]


@pytest.mark.parametrize("path", ["config/paper.yaml", "config/stable-diffusion.yaml"])
def test_the_models_of_our_configs_are_counted_before_they_are_downloaded(path):
    models = yaml.safe_load((REPOSITORY / path).read_text()).get("models", {})

    assert {model["path"] for model in models.values()} <= HUB_IDS.keys()


def test_an_ensembles_models_are_counted_before_they_are_downloaded():
    assert set(STABLE_DIFFUSION) <= HUB_IDS.keys()


def test_a_method_that_looks_at_data_is_not_counted_and_named(config, monkeypatch):
    """As one of a plug-in may; the rest of the plan is there."""

    def fit(*_: object) -> None:
        raise NotImplementedError("nonzero() needs data")

    monkeypatch.setattr("cloakbench.personalise.base.FineTuning.fit", fit)

    made = plan(config)

    assert line(made, "personalise").seconds is None
    assert line(made, "class_images").seconds is not None
    assert made.uncounted == ["personalise dreambooth: cannot be counted (nonzero() needs data)."]


def test_a_folder_that_is_called_like_an_architecture_is_counted_as_what_it_is(
    config, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").symlink_to(tiny_model.path)
    called = {**config["models"]["tiny"], "path": "sd15"}

    assert flops(plan(config, models={"tiny": called}), "class_images") == flops(
        plan(config), "class_images"
    )


def test_the_command_prints_a_table_or_plain_data(config, tmp_path):
    said = json.dumps(config)

    printed = CliRunner().invoke(app, ["plan", said]).stdout
    data = json.loads(CliRunner().invoke(app, ["plan", said, "--json"]).stdout)

    assert "left: " in printed
    assert "dreambooth" in printed
    assert data.keys() >= {"cells", "seconds_left", "card_bytes", "host_bytes", "disk_bytes_left"}
    assert {job["stage"] for job in data["jobs"]} >= {"protect", "personalise", "score"}


def test_where_nothing_can_be_written_a_run_is_planned_all_the_same(config, tmp_path):
    (tmp_path / "file").touch()

    made = plan(config | {"results": str(tmp_path / "file" / "results")})

    assert made.seconds > 0


def test_an_unknown_card_is_one_line(config):
    with pytest.raises(CloakBenchError, match=r"--card: unknown 'h10': did you mean 'h100'\?"):
        plan(config, "h10")


def test_counting_leaves_torch_as_it_was(config):
    plan(config)

    assert torch.zeros(1).device.type == "cpu"
    assert load_model(ModelSpec(**config["models"]["tiny"])).device == "cpu"


def test_without_the_photos_one_person_is_planned(config, tmp_path):
    missing = {"people": {"path": str(tmp_path / "nowhere")}}

    made = plan(config, datasets=missing, identities=None)

    told, instead = made.missing
    assert told.startswith(f"dataset {tmp_path / 'nowhere'}: no such folder")
    assert instead.endswith("nowhere: planned for one person of 12 photos.")
    assert line(made, "personalise").seconds is not None
    assert made.cells == 1
