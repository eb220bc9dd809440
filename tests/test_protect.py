"""What every protection promises, on a tiny model; new files are tested unasked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Folders, Killed, MortalJob, complete, smooth_photos, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch.utils._pytree import tree_leaves

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, load_photos
from cloakbench.identity import Identity
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tuning import FineTuner
from cloakbench.prompts import Prompts
from cloakbench.protect import Protection, protections
from cloakbench.protect.ascent import Ascent
from cloakbench.protect.aspl import looking_ahead
from cloakbench.protect.base import PhotoProtection, round_to_levels
from cloakbench.protect.pgd import pgd
from cloakbench.protect.surrogate import SurrogateProtection
from cloakbench.running.jobs import Job
from cloakbench.running.run import Run
from cloakbench.stages.protect import protect

ALL = complete(protections)
WITH_MODEL = [method.name for method in protections if "model" in method.needs]
ASCENDING = [method.name for method in protections if issubclass(method, SurrogateProtection)]


class Careless(PhotoProtection):
    """Changes the photos that it is given, or returns something else."""

    name = "careless"
    source = "a test"
    returned: Any = None

    def perturb(self, identity: Identity, job: Job) -> Any:
        photos = identity.instance_images.pixels
        return photos.add_(0.5) if self.returned is None else self.returned(photos)


def build(name: str, **settings: Any) -> Protection:
    return protections.build(tiny_spec(protections, name, **settings))


def run(name: str, identity: Identity, model: ModelSpec, job: Job, **settings: Any) -> Photos:
    load = lambda: load_model(model)  # noqa: E731
    return build(name, **settings).protect(identity, load, job)


def levels(folder: Path) -> dict[str, np.ndarray]:
    """The files of a folder as another program reads them."""
    return {p.name: np.asarray(Image.open(p), np.int16) for p in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("name", ALL)
def test_names_shape_and_range_are_kept_on_whole_grey_levels(name, identity, tiny_model):
    photos = run(name, identity, tiny_model, Job(0))

    original = identity.instance_images
    assert photos.names == original.names
    assert photos.pixels.shape == original.pixels.shape
    assert photos.pixels.dtype == torch.float32
    assert photos.pixels.min() >= 0
    assert photos.pixels.max() <= 1
    whole = (photos.pixels * 255).round() / 255
    torch.testing.assert_close(photos.pixels, whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize("budget", [0, 1, 11, 255])
@pytest.mark.parametrize("name", ALL)
def test_saved_files_stay_within_the_budget(
    name: str, budget: int, tiny_model: ModelSpec, folders: Folders, tmp_path: Path, identity
):
    protect(
        tiny_spec(protections, name, budget=budget),
        model=tiny_model,
        prompts=identity.prompts,
        instance=folders.instance,
        surrogate=folders.surrogate,
        class_images=folders.class_images,
        run=Run(tmp_path / "out", "anna"),
    )

    originals, saved = levels(folders.instance), levels(tmp_path / "out")
    assert saved.keys() == originals.keys()
    largest = max(np.abs(saved[key] - originals[key]).max() for key in originals)
    assert largest <= budget
    assert largest > 0 or budget < 11 or name == "clean"


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bytes(name, identity, tiny_model):
    first = run(name, identity, tiny_model, Job(3))
    again = run(name, identity, tiny_model, Job(3))

    assert torch.equal(first.pixels, again.pixels)


@pytest.mark.parametrize("name", [name for name in ALL if name != "clean"])
def test_another_seed_gives_other_bytes(name, identity, tiny_model):
    first = run(name, identity, tiny_model, Job(3))
    other = run(name, identity, tiny_model, Job(4))

    assert not torch.equal(first.pixels, other.pixels)


@pytest.mark.parametrize("name", ALL)
def test_global_random_state_is_neither_used_nor_changed(name, identity, tiny_model):
    torch.manual_seed(1)
    first = run(name, identity, tiny_model, Job(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = run(name, identity, tiny_model, Job(3))

    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_a_killed_protection_resumes_bit_for_bit(name, identity, tiny_model, tmp_path):
    whole = MortalJob(5)
    expected = run(name, identity, tiny_model, whole)
    if len(whole.seen) < 2:
        pytest.skip(f"'{name}' has no loop to resume")

    for lives in range(1, len(whole.seen)):
        scratch = tmp_path / str(lives)
        with pytest.raises(Killed):
            run(name, identity, tiny_model, MortalJob(5, scratch=scratch, lives=lives))
        rest = MortalJob(5, scratch=scratch)
        resumed = run(name, identity, tiny_model, rest)
        assert torch.equal(resumed.pixels, expected.pixels)
        assert whole.seen[-1] in rest.seen
        if list(scratch.glob("*.pt")):
            assert len(rest.seen) < len(whole.seen)


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_nan_in_the_model_is_one_clear_error(name, identity, tiny_model):
    def broken() -> StableDiffusion:
        model = load_model(tiny_model)
        with torch.no_grad():
            model.unet.conv_in.weight.fill_(float("nan"))
            model.vae.encoder.conv_in.weight.fill_(float("nan"))
        return model

    protection = build(name)
    trains = "learning_rate" in type(protection).model_fields
    cure = "Lower .*learning_rate" if trains else "Look whether its weights are whole, or set"
    with pytest.raises(CloakBenchError, match=rf"(?i)nan.*{cure}"):
        protection.protect(identity, broken, Job(0))


@pytest.mark.parametrize("name", ASCENDING)
def test_the_denoising_loss_rises_and_more_than_noise_changes_it(name, identity, tiny_model):
    model = load_model(tiny_model)

    def loss(pixels: torch.Tensor) -> float:
        draws = [torch.Generator().manual_seed(seed) for seed in range(30)]
        with torch.no_grad():
            text = model.embed([identity.prompts.instance_prompt] * len(pixels))
            latents = model.posterior(pixels)
            values = [model.denoising_loss(model.draw(latents, rng), text, rng) for rng in draws]
        return float(torch.stack(values).double().mean())

    many = {"rounds": 4, "pgd_steps": 5, "steps": 20}  # random weights: a step says little
    settings = {key: many[key] for key in protections[name].model_fields if key in many}
    clean = loss(identity.instance_images.pixels)
    noise = loss(run("noise", identity, tiny_model, Job(1), budget=32).pixels)
    protected = loss(run(name, identity, tiny_model, Job(1), budget=32, **settings).pixels)

    assert protected - clean > 3 * abs(noise - clean)


@pytest.mark.parametrize("budget", [1, 11, 32])
def test_sign_noise_uses_the_whole_budget_but_at_the_borders(budget, identity, tiny_model):
    photos = run("noise", identity, tiny_model, Job(0), budget=budget)

    before = (identity.instance_images.pixels * 255).round().int()
    after = (photos.pixels * 255).round().int()
    inside = (before >= budget) & (before <= 255 - budget)
    assert ((after - before).abs()[inside] == budget).all()
    clipped = (after == 0) | (after == 255) | ((after - before).abs() == budget)
    assert clipped.all()
    assert 0.45 < (after > before)[inside].float().mean() < 0.55


def test_a_share_of_the_photos_is_protected_and_more_of_them_at_a_larger_share(tiny_model):
    identity = Identity(smooth_photos(8, 3))
    original = identity.instance_images.pixels

    def changed(share: float, name: str = "noise", seed: int = 0) -> set[int]:
        made = run(name, identity, tiny_model, Job(seed), share=share).pixels
        return {i for i in range(8) if not torch.equal(made[i], original[i])}

    quarter, half, most = (changed(share) for share in (0.25, 0.5, 0.75))
    assert [len(each) for each in (changed(0.01), quarter, half, most)] == [1, 2, 4, 6]
    assert quarter < half < most < changed(1) == set(range(8))
    assert half == changed(0.5, "pid"), "other protections leave the same photos clean"
    assert any(half != changed(0.5, seed=seed) for seed in range(1, 4))


def test_uniform_noise_fills_the_budget_evenly(identity, tiny_model):
    settings = {"budget": 20, "distribution": "uniform"}
    photos = run("noise", identity, tiny_model, Job(0), **settings)

    before = (identity.instance_images.pixels * 255).round()
    inside = (before >= 20) & (before <= 235)
    change = (photos.pixels * 255).round()[inside] - before[inside]
    assert change.abs().mean() == pytest.approx(10, abs=0.3)
    assert change.mean() == pytest.approx(0, abs=0.3)


def test_the_faithful_variant_runs_in_bfloat16_and_differs(identity, tiny_model):
    loaded = []

    def load() -> StableDiffusion:
        loaded.append(load_model(tiny_model))
        return loaded[-1]

    plain = build("aspl").protect(identity, load, Job(0))
    faithful = build("aspl", faithful=True).protect(identity, load, Job(0))

    assert [model.unet.dtype for model in loaded] == [torch.float32, torch.bfloat16]
    assert not torch.equal(plain.pixels, faithful.pixels)


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_the_faithful_variant_trains_on_the_first_images_in_order(
    prior_weight, tiny_model, monkeypatch
):
    """Of five photos and five class images, three steps see the first three, in every call."""
    five = [smooth_photos(5, seed) for seed in range(3)]
    identity = Identity(five[0], Prompts(), five[1], five[2])
    protection = build(
        *("aspl",),
        faithful=True,
        rounds=2,
        training_steps=3,
        prior_weight=prior_weight,
    )
    seen: list[tuple[int, int, int]] = []
    step = FineTuner.step

    def spy(tuner: FineTuner, images: Any, number: int, draws: Any) -> None:
        prior = 0 if tuner.prior is None else len(tuner.prior.latents)
        seen.append((tuner._pick(len(images), number, draws)[0], len(images), prior))
        step(tuner, images, number, draws)

    monkeypatch.setattr(FineTuner, "step", spy)
    protection.protect(identity, lambda: load_model(tiny_model), Job(0))

    assert seen == [(k, 3, 3 * (prior_weight > 0)) for k in (0, 1, 2)] * 4


@pytest.mark.parametrize("frugal", [False, True])
def test_after_the_lookahead_weights_and_moments_are_as_they_were(frugal, identity, tiny_model):
    diffusion = load_model(tiny_model, frugal=frugal)
    diffusion.thaw("all")
    tuner = FineTuner(diffusion, "a photo of sks person", None, learning_rate=1e-2)
    images = diffusion.posterior_once(identity.instance_images.pixels)
    tuner.step(images, 0, Job(0).rng)
    before = deepcopy(tuner.state_dict())

    with looking_ahead(tuner):
        started_anew = not tuner.optimiser.state
        tuner.step(images, 1, Job(0).rng)
        inside = deepcopy(tuner.state_dict())

    assert started_anew
    assert not same_state(inside, before)
    assert same_state(tuner.state_dict(), before)


def same_state(one: Any, other: Any) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True)
    )


def test_the_lookaheads_moments_take_no_memory_while_pixels_ascend(
    monkeypatch, identity, diffusion
):
    protection, seen = build("aspl", rounds=2), []
    ascend = type(protection).ascend
    surrogates = []
    make = type(protection).surrogate

    def surrogate(*arguments: Any) -> Any:
        surrogates.append(make(*arguments))
        return surrogates[-1]

    def spy(*arguments: Any) -> torch.Tensor:
        seen.append(len(surrogates[0].tuner.optimiser.state))
        return ascend(*arguments)

    monkeypatch.setattr(type(protection), "surrogate", surrogate)
    monkeypatch.setattr(type(protection), "ascend", spy)
    protection.perturb(identity, diffusion, Job(0))

    assert seen == [0, 0]


@pytest.mark.parametrize("name", ["aspl", "simac", "easpl", "metacloak"])
def test_the_faithful_variant_keeps_no_moments_that_nobody_will_read(
    name, monkeypatch, identity, diffusion
):
    kept = []

    class Watching(Job):
        def steps(self, name: str, total: int, state: Any) -> Iterator[int]:
            for step in super().steps(name, total, state):
                yield step
                if name != "surrogate":
                    kept.append(sum(len(h.optimiser.state) for h in tuners(state)))

    build(name, faithful=True).perturb(identity, diffusion, Watching(0))

    assert kept
    assert set(kept) == {0}
    assert {p.dtype for p in diffusion.unet.parameters()} == {torch.bfloat16}


def tuners(state: dict[str, Any]) -> list[FineTuner]:
    return [holder for holder in state.values() if isinstance(holder, FineTuner)]


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_weights_in_bfloat16_run_without_the_casts_of_autocast(weights, tiny_model):
    model = load_model(tiny_model.model_copy(update={"precision": "bf16"}))
    model.cast_weights(weights)

    with model.autocast():
        casts = torch.is_autocast_enabled("cpu")

    assert casts == (weights == "fp32")


def test_pixels_ascend_at_bf16_on_weights_that_are_bfloat16_and_float32_again_afterwards(
    tiny_model,
):
    model = load_model(tiny_model.model_copy(update={"precision": "bf16"}))
    before = [p.detach().clone() for p in model.unet.parameters()]

    with pytest.raises(Killed), model.frozen():
        inside = {p.dtype for network in model.networks for p in network.parameters()}
        with model.autocast():
            casts = torch.is_autocast_enabled("cpu")
        raise Killed

    assert inside == {torch.bfloat16}
    assert not casts
    assert all(map(torch.equal, model.unet.parameters(), before))


IMPRESS = {"method": "impress", "preset": "tiny"}


@pytest.mark.parametrize(
    ("name", "settings", "vae_alone"),
    [
        ("pid", {}, True),
        ("photoguard", {"through": ["jpeg", [IMPRESS, "resize"]]}, True),
        ("photoguard", {"through": [{"method": "latent_diffpure", "preset": "tiny"}]}, False),
        ("aspl", {}, False),
        ("mist", {"mode": "texture"}, True),
        ("mist", {"mode": "fused"}, False),
    ],
)
def test_what_looks_through_the_vae_alone_loads_nothing_else(
    name, settings, vae_alone, identity, tiny_model
):
    method = build(name, **settings)
    model = load_model(tiny_model, vae_alone=method.vae_alone)

    assert method.vae_alone == vae_alone
    assert len(model.networks) == (1 if vae_alone else 3)
    assert torch.isfinite(method.protect(identity, lambda: model, Job(0)).pixels).all()


ENCODERS: list[dict[str, Any]] = [
    {"method": "pid"},
    {"method": "photoguard"},
    {"method": "glaze", "perceptual": "dssim", "style_steps": 10},
    {"method": "mist", "mode": "texture"},
]


@pytest.mark.parametrize("spec", ENCODERS, ids=lambda spec: spec["method"])
def test_losses_of_the_encoder_alone_are_float32_at_any_precision(spec, identity, tiny_model):
    name, settings = spec["method"], {key: spec[key] for key in spec if key != "method"}
    spec = tiny_model.model_copy(update={"precision": "bf16"})
    model, seen = load_model(spec), []
    encode = model.vae.encode

    def spy(pixels: torch.Tensor) -> Any:
        if pixels.requires_grad:
            seen.append((pixels.dtype, torch.is_autocast_enabled("cpu")))
        return encode(pixels)

    model.vae.encode = spy
    build(name, **settings).perturb(identity, model, Job(0))

    assert set(seen) == {(torch.float32, False)}


def test_frozen_takes_and_returns_exactly_what_was_thawed(diffusion):
    diffusion.thaw("all", text_encoder=False)
    thawed = diffusion.trainable()

    inside = []
    with diffusion.frozen():
        inside += diffusion.trainable()
    with pytest.raises(Killed), diffusion.frozen():
        raise Killed

    assert inside == []
    assert list(map(id, diffusion.trainable())) == list(map(id, thawed))
    assert not any(p.requires_grad for p in diffusion.text_encoder.parameters())


@pytest.mark.parametrize("name", [name for name in WITH_MODEL if name not in {"caat", "glaze"}])
def test_as_many_gradient_steps_are_taken_as_its_settings_say(
    name, identity, diffusion, monkeypatch
):
    """What the share of the default's steps in tables and catalogue rests on."""
    taken, ascend = [], Ascent.ascend

    def counting(self, pixels, *others):
        taken.append(len(pixels) * len(others[-1]))
        return ascend(self, pixels, *others)

    monkeypatch.setattr(Ascent, "ascend", counting)
    protection = build(name)

    protection.apply(identity, lambda: diffusion, Job(0))

    photos = len(identity.instance_images.pixels)
    assert sum(taken) == photos * math.prod(getattr(protection, key) for key in protection.effort)


def test_on_the_miniature_no_protection_does_far_less_of_its_work_than_others():
    mini = {name: protections.build({"method": name, "preset": "mini"}) for name in WITH_MODEL}
    shares = {name: protection.steps_share for name, protection in mini.items()}

    assert shares.pop("metacloak") == pytest.approx(0.1)  # of 14,400 steps
    assert all(0.3 <= share <= 1 for share in shares.values())


@pytest.mark.parametrize("name", ASCENDING)
def test_ascending_changes_no_weight_of_the_surrogate(name, identity, diffusion):
    fields = protections[name].model_fields
    protection = build(name, **{key: 0 for key in fields if key.endswith("training_steps")})
    before = [(p, p.detach().clone()) for p in diffusion.unet.parameters()]

    protection.perturb(identity, diffusion, Job(0))

    assert all(torch.equal(parameter, saved) for parameter, saved in before)
    assert all(p.grad is None for p in diffusion.unet.parameters())
    assert all(p.grad is None for p in diffusion.vae.parameters())


def test_pgd_equals_a_loop_written_by_hand_on_a_quadratic_loss():
    rng = np.random.default_rng(0)
    original, start, target = rng.random((3, 2, 3, 5, 5))
    start = np.clip(start, original - 0.1, original + 0.1).clip(0, 1)

    expected = start.copy()
    for _ in range(7):
        gradient = 2 * (expected - target)
        moved = expected + 0.03 * np.sign(gradient)
        expected = np.minimum(np.maximum(moved, original - 0.1), original + 0.1).clip(0, 1)

    goal = torch.tensor(target)
    result = pgd(
        torch.tensor(start),
        torch.tensor(original),
        lambda x, *_: (x - goal).square().flatten(1).sum(1),
        radius=0.1,
        step_size=lambda _: 0.03,
        steps=range(7),
    )
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


def test_photos_go_through_pgd_in_batches_with_the_result_that_they_have_at_once(monkeypatch):
    photos = smooth_photos(5, 0).pixels
    goals, seen = smooth_photos(5, 1).pixels, []

    def loss(pixels: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        seen.append(len(pixels))
        return (pixels - goals[rows]).square().flatten(1).sum(1)

    def run(batch: int) -> torch.Tensor:
        monkeypatch.setattr("cloakbench.protect.pgd.BATCH", batch)
        return pgd(
            *(photos, photos, loss),
            radius=0.1,
            step_size=lambda _: 0.03,
            steps=range(2),
        )

    assert torch.equal(run(2), run(5))
    assert seen == [2, 2, 1] * 2 + [5] * 2


def test_pgd_tells_the_loss_which_step_it_is_and_keeps_images_apart():
    pixels = torch.full((2, 3, 4, 4), 0.5)
    seen = []

    def loss(x: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        seen.append(step)
        return torch.stack([1e6 * x[0].sum(), -1e-6 * x[1].sum()])

    result = pgd(pixels, pixels, loss, radius=1.0, step_size=lambda _: 0.1, steps=range(3, 5))

    assert seen == [3, 4]
    torch.testing.assert_close(result[0], torch.full((3, 4, 4), 0.7))
    torch.testing.assert_close(result[1], torch.full((3, 4, 4), 0.3))


GREY = arrays.arrays(np.uint8, (1, 3, 4, 4))
WILD = arrays.arrays(np.float32, (1, 3, 4, 4), elements=st.floats(-3, 3, width=32))


@given(original=GREY, wild=WILD, budget=st.integers(0, 255))
def test_projecting_and_rounding_never_leave_the_budget(original, wild, budget):
    photos = torch.from_numpy(original).float() / 255
    protection = protections.build({"method": "noise", "budget": budget})

    projected = protection.project(torch.from_numpy(wild), photos)
    saved = (round_to_levels(projected) * 255).round().int()

    assert (saved - torch.from_numpy(original).int()).abs().max() <= budget
    assert saved.min() >= 0
    assert saved.max() <= 255


@given(original=GREY, change=st.integers(-255, 255), budget=st.integers(0, 255))
def test_projecting_keeps_what_is_already_inside(original, change, budget):
    change = max(-budget, min(budget, change))
    photos = torch.from_numpy(original).float() / 255
    wanted = (torch.from_numpy(original).float() + change).clamp(0, 255) / 255
    protection = protections.build({"method": "noise", "budget": budget})

    projected = round_to_levels(protection.project(wanted, photos))

    assert torch.equal((projected * 255).round(), (wanted * 255).round())


def test_a_protection_that_breaks_its_budget_is_stopped_before_its_files_appear(
    monkeypatch, tiny_model, folders, identity, tmp_path
):
    clean = protections["clean"]
    monkeypatch.setattr(clean, "project", lambda self, pixels, original: 1 - original)

    with pytest.raises(CloakBenchError, match=r"255 from the originals, the budget is 0/255"):
        protect(
            {"method": "clean"},
            model=tiny_model,
            prompts=identity.prompts,
            instance=folders.instance,
            surrogate=None,
            class_images=None,
            run=Run(tmp_path / "out", "anna"),
        )

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["surrogate", "class_images"])
def test_a_missing_folder_is_asked_for_by_its_option(
    option, tiny_model, folders, identity, tmp_path
):
    given_folders = {"surrogate": folders.surrogate, "class_images": folders.class_images}
    given_folders[option] = None

    flag = "--" + option.replace("_", "-")
    with pytest.raises(CloakBenchError, match=rf"'aspl' needs {flag} FOLDER"):
        protect(
            tiny_spec(protections, "aspl"),
            model=tiny_model,
            prompts=identity.prompts,
            instance=folders.instance,
            **given_folders,
            run=Run(tmp_path / "out", "anna"),
        )


def test_unfinished_work_of_other_settings_is_not_resumed(
    monkeypatch, tiny_model, folders, identity, tmp_path
):
    def protected(out: str, prompts, **settings: Any) -> torch.Tensor:
        protect(
            tiny_spec(protections, "aspl", **settings),
            model=tiny_model,
            prompts=prompts,
            instance=folders.instance,
            surrogate=folders.surrogate,
            class_images=folders.class_images,
            run=Run(tmp_path / out, "anna", scratch=tmp_path / "scratch"),
        )
        return load_photos(tmp_path / out).pixels

    other = identity.prompts.model_copy(update={"class_noun": "dog"})
    expected = protected("expected", other, budget=40)

    monkeypatch.setattr("cloakbench.running.run.Job", lambda *args: MortalJob(*args, lives=1))
    with pytest.raises(Killed):
        protected("out", identity.prompts, budget=40)
    monkeypatch.undo()

    assert torch.equal(protected("out", other, budget=40), expected)
    assert not list((tmp_path / "scratch").rglob("*.pt"))


PUBLISHED = {
    # method: budget, step of PGD, both in 255ths, and what the loop and its surrogate take
    "fsmg": (6, 0.6, {"steps": 100, "training_steps": 1000, "learning_rate": 5e-7}),
    "aspl": (6, 0.6, {"rounds": 50, "training_steps": 3, "pgd_steps": 6, "learning_rate": 5e-7}),
    "efsmg": (6, 0.6, {"rounds": 60, "steps": 12, "training_steps": 1000, "learning_rate": 5e-7}),
    "easpl": (6, 0.6, {"rounds": 50, "training_steps": 3, "pgd_steps": 6, "learning_rate": 5e-7}),
    "aspl_lora": (6, 0.48, {"rounds": 50, "training_steps": 3, "learning_rate": 5e-6}),
    "simac": (8, 0.64, {"search_rounds": 50, "candidates": 5, "neighbourhood": 20, "enough": 100}),
    "caat": (6, 0.6, {"steps": 250, "learning_rate": 1e-5}),
    "advdm": (16, 1, {"steps": 100}),
    "mist": (16, 1, {"steps": 100, "mode": "fused"}),
    "sds": (16, 1, {"steps": 100, "rate": 5, "direction": "descend"}),
    "photoguard": (8, 8 / 3, {"steps": 1000, "towards": "zero"}),
    "pid": (13, 1, {"steps": 1000}),
    "ace": (4, 0.64, {"rounds": 5, "steps": 30, "training_steps": 10, "learning_rate": 1e-4}),
    "metacloak": (11, 1.1, {"trials": 4, "checkpoints": 6, "rounds": 100, "pgd_steps": 6,
                            "retraining_steps": 2, "training_steps": 1000, "blur": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_paper_are_what_was_published(name: str) -> None:
    """As docs/recipes.md has it, section 1; budgets and steps of 255ths in whole levels where the
    published ones are not, in proportion.
    """
    budget, step, rest = PUBLISHED[name]
    method = protections.build({"method": name, "preset": "paper"})
    settings = method.model_dump()

    assert method.budget == budget
    assert 255 * method.step_size(0) == pytest.approx(step, rel=0.02)
    assert {key: settings[key] for key in rest} == rest


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"method": "photoguard"}, "set towards: target, or name no target"),
        ({"method": "sds"}, "set targeted: true, or name no target"),
        ({"method": "mist", "mode": "semantic"}, "set mode: fused or texture, or name no target"),
    ],
)
def test_a_target_that_would_not_be_used_is_refused(spec: dict[str, Any], said: str, tmp_path):
    with pytest.raises(CloakBenchError, match=rf"leaves the photo in `target` unused: {said}"):
        protections.build(spec | {"target": str(tmp_path / "mine.png")})

    protections.build(spec)
    protections.build({"method": "mist", "target": str(tmp_path / "mine.png")})


def test_a_method_that_changes_its_photos_in_place_stays_within_its_budget(identity: Identity):
    before = identity.instance_images.pixels.clone()

    made = Careless(budget=11).protect(identity)

    assert torch.equal(identity.instance_images.pixels, before)
    change = ((made.pixels - before).abs().amax((1, 2, 3)) * 255).round()
    assert change.tolist() == [11] * len(before)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda photos: photos[:1], "returned torch.float32 (1, 3,"),
        (lambda photos: (255 * photos).byte(), "returned torch.uint8"),
        (lambda photos: photos.numpy(), "returned ndarray"),
        (lambda _: [], "returned list"),
    ],
)
def test_what_is_no_perturbed_photos_is_one_line(returned: Any, said: str, identity: Identity):
    with pytest.raises(CloakBenchError, match=re.escape(said)) as caught:
        Careless(budget=11, returned=returned).protect(identity)
    assert "protection 'careless'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photos_in_double_precision_are_photos(identity: Identity):
    made = Careless(budget=11, returned=lambda photos: photos.double()).protect(identity)

    assert made.pixels.dtype == torch.float32
