"""What jobs take at Stable Diffusion's size; benchmarks/scale.py counts it without a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache, partial
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from test_docs import rows

from cloakbench.counting import GPU, Counts, Meter, count
from cloakbench.experiment.config import load
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.plan import CUDA, make_plan
from cloakbench.experiment.status import duration
from cloakbench.files.images import Photos
from cloakbench.identity import Identity
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier

KEYS = {
    *("method", "stage", "model", "photos", "flops", "gpu_gb", "gpu_gb_frugal", "host_gb"),
    *("disk_gb", "moved_gb", "operators", "host_gb_frugal", "moved_gb_frugal"),
}
GIB = 2**30
SD15 = ModelSpec(path="sd15", precision="bf16")


@cache
def scale() -> Any:
    place = importlib.util.spec_from_file_location("scale", REPOSITORY / "benchmarks" / "scale.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module  # where dataclasses look for their module
    place.loader.exec_module(module)
    return module


def test_a_measured_job_counts_the_steps_that_it_leaves_out(monkeypatch):
    now = [0.0]
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(scale().time, "perf_counter", lambda: now[0])
    clock, ran = scale().Clock(), []
    clock.restart()
    job = scale().TimedJob(0, counts=clock)

    for outer in job.steps("rounds", 7, {}):
        now[0] += 1.0
        for inner in job.part("inner", outer).steps("ascent", 5, {}):
            ran.append((outer, inner))
            now[0] += 0.5 if inner else 2.0  # the first warms up

    assert ran == [(outer, inner) for outer in range(3) for inner in range(3)]
    assert clock.now() == pytest.approx(7 * (1 + 2 + 4 * 0.5))


def test_both_tries_of_a_row_are_measured_with_random_weights(tiny_model, monkeypatch):
    """On the CPU, whose memory nothing counts."""
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda: 3e9)
    monkeypatch.setattr(scale(), "DEVICE", "cpu")
    seen = []

    def work(model: Any, job: Any) -> None:
        seen.append((model.frugal, job.counts.now()))

    tries = scale().tried(scale().Row("row", "step", work), tiny_model, "h100", flops=1e12)

    assert [frugal for frugal, _ in seen] == [False, True]
    assert [took["gb"] for took in tries] == [3.0, 3.0]
    for took in tries:
        assert took["share"] == pytest.approx(1e12 / 989e12 / took["seconds"])

    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    tries = scale().tried(scale().Row("row", "step", too_much), tiny_model, "h100", flops=1e12)
    assert tries == [{"failed": "out of memory"}] * 2


@cache
def counted(method: str, stage: str, *, frugal: bool = False, photos: int = 4) -> Counts:
    """With few class images: their encoding is a small share of the work, but much to count."""
    rows = scale().rows(photos)
    [row] = [row for row in rows if (row.method, row.stage) == (method, stage)]
    return count(SD15, row.work, frugal=frugal)


@cache
def aspl(*models: str, frugal: bool = False, name: str = "aspl", **settings: Any) -> Counts:
    """ASPL, a child of it, or E-ASPL with more models; one step in a place of many says what memory
    they take.
    """
    named: dict[str, Any] = {"method": "easpl", "models": models} if models else {"method": name}
    method = protections.build({**named, "training_steps": 1, "pgd_steps": 1, **settings})
    return count(SD15, partial(scale().protect, method, scale().people(4)), frugal=frugal)


@pytest.fixture(autouse=True)
def few_class_images(monkeypatch):
    def people(number: int) -> Identity:
        photos: Photos = scale().photos(number)
        return Identity(photos, scale().Prompts(), photos, scale().photos(8))

    monkeypatch.setattr(scale(), "people", people)


def test_a_step_of_pgd_is_counted_as_the_formulas_say():
    """A convolution and an attention by hand: FLOPs, activations, operators."""

    def work(model: Any, job: Any) -> None:
        pixels = torch.zeros(1, 3, 512, 512, device=GPU, requires_grad=True)
        with model.frozen():  # which makes weights bfloat16
            job.counts.restart()
            model.vae.encoder.conv_in(pixels.bfloat16()).sum().backward()

    counts = count(SD15, work)

    assert counts.flops == 2 * 2 * 512**2 * 9 * 3 * 128  # forward, and the gradient of the pixels
    assert counts.operators < 12


def test_a_step_of_pgd_on_four_photos():
    step = counted("pgd", "step")

    assert step.gpu <= 16.1e9
    assert step.flops == pytest.approx(16.31e12, rel=0.01)
    assert step.operators <= 1580


def test_weights_that_stay_as_they_are_are_cast_once_and_not_at_every_step():
    def operators(steps: int) -> float:
        method = protections.build({"method": "advdm", "steps": steps})
        return count(SD15, partial(scale().protect, method, scale().people(4))).operators

    assert operators(12) - operators(11) <= 1_620


def test_more_photos_than_a_batch_cost_no_more_each():
    assert counted("pgd", "step", photos=8).flops == pytest.approx(
        2 * counted("pgd", "step").flops, rel=1e-3
    )


def test_a_round_of_simacs_search_encodes_a_photo_once():
    assert counted("simac", "search").flops <= 16e12


@pytest.mark.large
def test_dreambooth_writes_nothing_unless_it_is_interrupted():
    dreambooth = counted("dreambooth", "personalise")

    assert dreambooth.disk == 0
    assert dreambooth.gpu <= 15e9
    assert dreambooth.flops == pytest.approx(5.9e15, rel=0.01)
    assert counted("dreambooth", "personalise", frugal=True).gpu <= 15e9
    assert counted("dreambooth small", "personalise").gpu <= 11e9


def test_dreambooth_on_a_large_card_computes_no_activations_again():
    """As cards of more than 40 GB do: faster, in more memory."""
    trainer = trainers.build({"method": "dreambooth"})

    large = count(SD15, partial(scale().train, trainer, scale().people(4)), large=True)

    assert large.gpu == pytest.approx(16.6e9, rel=0.01)
    assert large.flops == pytest.approx(5.04e15, rel=0.01)


@pytest.mark.large
def test_aspl_fits_a_card_of_40_gb_and_at_the_second_try_one_of_24():
    assert aspl().gpu <= 32e9
    assert aspl(frugal=True).gpu <= 23e9
    assert aspl(faithful=True).gpu <= 14e9


@pytest.mark.large
def test_simac_fits_the_same_cards():
    settings = {"name": "simac", "search_rounds": 1}

    assert aspl(**settings).gpu <= 32e9
    assert aspl(**settings, frugal=True).gpu <= 23e9


@pytest.mark.large
def test_an_ensemble_of_three_stays_on_a_card_of_80_gb_and_fits_one_of_24_at_the_second_try():
    resident = aspl("sd14", "sd21")
    crowded = aspl("sd14", "sd21", frugal=True)

    assert resident.gpu + CUDA <= 80 * GIB
    assert resident.moved <= 20e9  # its models, once
    assert crowded.gpu + CUDA <= 24 * GIB
    assert crowded.host <= 40e9
    assert crowded.moved <= 3.6e12
    assert crowded.checkpoint <= 40e9


@pytest.mark.large
@pytest.mark.parametrize(("column", "card"), [(1, "rtx4090"), (2, "h100")])
def test_the_page_on_stable_diffusion_shows_what_a_plan_counts(column, card, tmp_path):
    """Of one person with twelve photos."""
    (tmp_path / "photos" / "anna").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "anna" / f"{number:02d}.png")
    config = load([REPOSITORY / name for name in ("config.yaml", "config/stable-diffusion.yaml")])
    there = {"mine": {"path": str(tmp_path / "photos")}}
    config |= {"datasets": there, "results": str(tmp_path)}
    made = make_plan(Experiment.parse(config), card)
    with_codesr = make_plan(Experiment.parse(config | {"purifications": ["codesr"]}), card)
    page = (REPOSITORY / "docs" / "stable-diffusion.md").read_text("utf-8")
    planned, _ = page.split("A training step", 1)
    shown = {row[0].split()[0].strip(","): row[column] for row in rows(planned)[2:]}

    names = {"class_images": "200", "protect": "ASPL", "personalise": "DreamBooth"}
    names["purify"] = "CodeSR"
    for line in (each for each in [*made.lines, *with_codesr.lines] if each.need):
        name = names[line.stage]
        takes = f"{duration(line.seconds)}, {(line.need.device + CUDA) / 1e9:.0f} GB"
        assert shown[name] == takes + (" (second, frugal try)" if line.frugal else "")
    assert shown["all"] == duration(made.seconds)


PUBLISHED = {
    ("codeformer", "CodeFormer"): 94_112_707,
    ("superres", "UNet2DConditionModel"): 473_398_020,
    ("superres", "AutoencoderKL"): 55_325_927,
    ("superres spandrel", "RRDBNet"): 16_697_987,
    ("diffpure", "UNet2DModel"): 113_673_219,
}
"""Weights of the published networks, as their files have them."""


@pytest.mark.parametrize("method", sorted({method for method, _ in PUBLISHED}))
def test_purifications_are_counted_with_the_published_networks(method, monkeypatch):
    made: dict[tuple[str, str], int] = {}

    def note(_: Meter, network: torch.nn.Module) -> None:
        made[method, type(network).__name__] = sum(p.numel() for p in network.parameters())

    monkeypatch.setattr(Meter, "weights", note)
    [row] = [row for row in scale().rows(1) if row.method == method]
    count(None, row.work)

    published = {key: number for key, number in PUBLISHED.items() if key[0] == method}
    assert made.items() >= published.items()


def test_the_steps_of_an_upscaler_are_counted_that_do_not_run():
    def flops(steps: int) -> float:
        purifier = build_purifier({"method": "superres", "steps": steps})
        return count(None, partial(scale().purify, purifier, scale().people(1))).flops

    ten, twenty, forty = map(flops, (10, 20, 40))
    assert forty - twenty == pytest.approx(2 * (twenty - ten))
    assert forty > 3 * ten


def test_the_benchmark_prints_what_it_counts_as_json():
    command = [sys.executable, REPOSITORY / "benchmarks" / "scale.py", "--json", "vae_roundtrip"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    [row] = json.loads(printed)
    assert row.keys() >= KEYS
    assert (row["method"], row["stage"], row["model"]) == ("vae_roundtrip", "purify", "sd15")
    assert 0.3 < row["gpu_gb"] < 3  # without the U-Net's 3.4 GB
