"""What protections with trained surrogates promise beyond the contract of tests/test_protect.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import ALL, Folders, Killed, MortalJob, smooth_photos, tiny_spec
from torchvision.transforms.v2 import functional as vision

from cloakbench.errors import CloakBenchError
from cloakbench.identity import Identity
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tuning import FineTuner
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.protect.aspl import looking_ahead
from cloakbench.protect.ensemble import Device, Member
from cloakbench.protect.metacloak import Checkpoints, blurred, cropped
from cloakbench.protect.pgd import gradient
from cloakbench.protect.simac import Timesteps, recorded
from cloakbench.protect.surrogate import Denoising
from cloakbench.running.jobs import Job
from cloakbench.running.run import Run
from cloakbench.stages.protect import protect

WITH_PRIOR = [m.name for m in protections if "prior_weight" in m.model_fields]


def build(name: str, **settings: Any) -> Any:
    return protections.build(tiny_spec(protections, name, **settings))


def perturb(name: str, identity, model: ModelSpec, job: Job, **settings: Any) -> torch.Tensor:
    return build(name, **settings).perturb(identity, load_model(model), job)


def copies(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> Iterator[list[tuple]]:
    """The arguments of every call of a function inside, which still does its work."""
    seen, original = [], getattr(place, name)

    def spy(*args: Any) -> Any:
        seen.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, spy)
        yield seen


# Many photos


def test_photos_beyond_a_batch_keep_their_gradients_without_the_memory(diffusion):
    photos = smooth_photos(6, 0).pixels
    loss, sizes = Denoising(diffusion, "a photo", Job(0)), []

    def spy(latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(latents))
        return denoising_loss(latents, *rest)

    denoising_loss, diffusion.denoising_loss = diffusion.denoising_loss, spy
    found = gradient(loss, photos, 5)
    parts = [slice(0, 4), slice(4, 8)]
    pixels = photos.clone().requires_grad_(True)
    losses = torch.cat([loss(pixels[rows], 5, rows) for rows in parts])
    (expected,) = torch.autograd.grad(losses.sum(), pixels)

    assert torch.equal(found, expected)
    assert (found.abs().amax((1, 2, 3)) > 0).all()
    assert sizes[:2] == [4, 2]  # each once: nothing is computed again


def test_more_photos_than_a_batch_can_be_protected(tiny_model):
    identity = Identity(smooth_photos(5, 0), Prompts(), smooth_photos(5, 1), smooth_photos(3, 2))
    for name in ("aspl", "simac", "caat"):
        moved = perturb(name, identity, tiny_model, Job(0)) - identity.instance_images.pixels
        assert (moved.abs().amax((1, 2, 3)) > 0).all()


# Class images


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_without_prior_weight_no_class_images_are_asked_for(
    name, tiny_model, folders: Folders, identity, tmp_path
):
    spec = tiny_spec(protections, name, prior_weight=0)
    protect(
        spec,
        model=tiny_model,
        prompts=identity.prompts,
        instance=folders.instance,
        surrogate=folders.surrogate,
        class_images=None,
        run=Run(tmp_path / "out", "anna"),
    )

    assert "class_images" in build(name).uses
    assert "class_images" not in build(name, prior_weight=0).uses


# LoRA surrogates


def test_a_lora_surrogate_trains_float32_factors_and_no_weight_of_the_model(identity, diffusion):
    networks = (diffusion.unet, diffusion.text_encoder)
    weights = [p for network in networks for p in network.parameters()]
    before = [p.detach().clone() for p in weights]
    protection = build("aspl_lora", learning_rate=1e-2, train_text_encoder=True)

    protection.perturb(identity, diffusion, Job(0))

    factors = diffusion.trainable()
    assert all(map(torch.equal, weights, before))
    assert factors
    assert all(p.dtype == torch.float32 for p in factors)
    assert not {id(p) for p in factors} & {id(p) for p in weights}
    assert any(p.abs().sum() > 0 for name, p in _named(diffusion) if "lora_B" in name)


def _named(model: StableDiffusion) -> list[tuple[str, torch.nn.Parameter]]:
    return [pair for n in (model.unet, model.text_encoder) for pair in n.named_parameters()]


def test_the_lookahead_of_a_lora_surrogate_does_not_leak_into_it(identity, diffusion):
    surrogate = build("aspl_lora", learning_rate=1e-2).surrogate(identity, diffusion, Job(0))
    before = [p.detach().clone() for p in surrogate.tuner.parameters]

    with looking_ahead(surrogate.tuner):
        surrogate.tuner.step(surrogate.clean, 0, Job(0).rng)
        inside = [p.detach().clone() for p in surrogate.tuner.parameters]

    assert not all(map(torch.equal, inside, before))
    assert all(map(torch.equal, surrogate.tuner.parameters, before))
    assert not surrogate.tuner.optimiser.state_dict()["state"]


def test_a_batch_of_fsmgs_surrogate_has_as_many_images_as_it_says(identity, diffusion, monkeypatch):
    counts, loss = [], diffusion.denoising_loss

    def counted(latents, *rest):
        counts.append(len(latents))
        return loss(latents, *rest)

    monkeypatch.setattr(diffusion, "denoising_loss", counted)
    build("fsmg", batch_size=2).train(identity, diffusion, Job(0))

    assert set(counts) == {4}


# Ensembles


def test_an_ensemble_of_one_model_is_the_method_itself(identity, tiny_model):
    aspl = perturb("aspl", identity, tiny_model, Job(0), learning_rate=1e-3)
    easpl = perturb("easpl", identity, tiny_model, Job(0), learning_rate=1e-3)
    fsmg = perturb("fsmg", identity, tiny_model, Job(0), steps=4)
    named = (tiny_model.path,)
    efsmg = perturb("efsmg", identity, tiny_model, Job(0), rounds=2, steps=2, models=named)

    assert torch.equal(easpl, aspl)
    assert torch.equal(efsmg, fsmg)


@pytest.mark.parametrize(
    ("name", "single", "settings"),
    [("easpl", "aspl", {"rounds": 1}), ("efsmg", "fsmg", {"steps": 2})],
)
def test_a_round_of_an_ensemble_is_the_mean_of_its_models_results(
    name, single, settings, identity, tiny_model, tiny_v_model
):
    job = Job(0)
    alone = [
        perturb(single, identity, tiny_model, job, **settings),
        perturb(single, identity, tiny_v_model, job.part("model", 1), **settings),
    ]

    models = (tiny_v_model.path,)
    both = perturb(name, identity, tiny_model, job, **{**settings, "rounds": 1}, models=models)

    assert not torch.equal(*alone)
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("name", ["easpl", "efsmg"])
def test_the_mean_over_models_stays_within_the_budget(name, identity, tiny_model, tiny_v_model):
    settings = {"models": (tiny_v_model.path,), "relative_step": 1.0, "rounds": 3}
    pixels = perturb(name, identity, tiny_model, Job(0), **settings)

    change = (pixels - identity.instance_images.pixels).abs().max()
    assert 0 < change <= 11 / 255 + 1e-6
    assert pixels.min() >= 0
    assert pixels.max() <= 1


@pytest.mark.parametrize("name", ["easpl", "efsmg"])
def test_a_killed_ensemble_of_several_models_resumes_bit_for_bit(
    name, identity, tiny_model, tiny_v_model, tmp_path
):
    settings = {"models": (tiny_v_model.path,)}
    whole = MortalJob(5)
    expected = perturb(name, identity, tiny_model, whole, **settings)

    for lives in range(1, len(whole.seen)):
        scratch = tmp_path / str(lives)
        with pytest.raises(Killed):
            job = MortalJob(5, scratch=scratch, lives=lives)
            perturb(name, identity, tiny_model, job, **settings)
        rest = MortalJob(5, scratch=scratch)
        assert torch.equal(perturb(name, identity, tiny_model, rest, **settings), expected)
        assert len(rest.seen) < len(whole.seen)


def test_all_models_of_an_ensemble_are_frugal_where_memory_has_run_out(tiny_model, tiny_v_model):
    model = load_model(tiny_model, frugal=True)

    members = build("easpl", models=(tiny_v_model.path,)).members(model, Job(0))
    assert [member.model.frugal for member in members] == [True, True]


def test_a_model_that_is_named_twice_or_copied_counts_once(tiny_model, tiny_v_model, tmp_path):
    link, copy = tmp_path / "link", tmp_path / "copy"
    link.symlink_to(tiny_model.path)
    shutil.copytree(tiny_model.path, copy)
    (copy / "unet" / "config.json").write_text(
        json.dumps(json.loads((copy / "unet" / "config.json").read_text()) | {"_from": "elsewhere"})
    )
    names = (str(link), f"{tiny_model.path}/", str(copy), tiny_v_model.path, tiny_v_model.path)

    members = build("easpl", models=names).members(load_model(tiny_model), Job(0))

    assert [member.model.spec.path for member in members] == [tiny_model.path, tiny_v_model.path]


@pytest.mark.parametrize("name", ["easpl", "efsmg"])
def test_a_missing_model_of_an_ensemble_is_one_clear_error_at_planning(name, tmp_path):
    with pytest.raises(CloakBenchError, match=r"model .*nothing: no such folder"):
        build(name, models=(str(tmp_path / "nothing"),)).check()


class Moved:
    """A model that notes where it is sent."""

    def __init__(self, name: str, journal: list[str], device: str, frugal: bool) -> None:
        self.name, self.journal, self.device, self.frugal = name, journal, device, frugal

    def to(self, device: str) -> None:
        self.journal.append(f"{self.name} to {device}")
        self.device = device


def visited(names: str, frugal: bool) -> list[str]:
    """What is moved and visited in three rounds of an ensemble on a GPU."""
    journal: list[str] = []
    models = [Moved(name, journal, "cpu" if i else "gpu", frugal) for i, name in enumerate(names)]
    device = Device([Member(model, Job(0)) for model in models])  # type: ignore[arg-type]
    for number in range(3):
        for index, member in device.visits(number):
            assert member.model is models[index]
            assert member.model.device == "gpu"
            journal.append(names[index])
    return journal


def test_a_lone_model_of_an_ensemble_is_never_moved():
    assert visited("a", frugal=False) == visited("a", frugal=True) == ["a"] * 3


def test_models_of_an_ensemble_stay_on_the_device():
    assert visited("abc", frugal=False) == [
        *("a", "b to gpu", "b", "c to gpu", "c"),
        *("c", "b", "a"),
        *("a", "b", "c"),
    ]


def test_where_memory_has_run_out_one_model_is_there_and_each_turn_saves_two_moves():
    assert visited("ab", frugal=True) == [
        *("a", "a to cpu", "b to gpu", "b"),
        *("b", "b to cpu", "a to gpu", "a"),
        *("a", "a to cpu", "b to gpu", "b"),
    ]


@pytest.mark.parametrize("name", ["easpl", "efsmg"])
def test_an_ensemble_whose_models_move_has_the_result_of_one_whose_models_stay(
    name, identity, tiny_model, tiny_v_model
):
    settings = {"rounds": 3, "models": (tiny_v_model.path,)}

    def result(frugal: bool) -> torch.Tensor:
        model = load_model(tiny_model, frugal=frugal)
        return build(name, **settings).perturb(identity, model, Job(0))

    assert torch.equal(result(False), result(True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_models_of_a_frugal_ensemble_are_on_the_gpu_one_at_a_time(
    identity, tiny_model, tiny_v_model
):
    protection = build("easpl", models=(tiny_v_model.path,))
    model = load_model(tiny_model, "cuda", frugal=True)
    members = protection.members(model, Job(0))

    for _, member in Device(members).visits():
        places = [next(m.model.unet.parameters()).device.type for m in members]
        assert places.count("cuda") == 1
        assert member.model.device == "cuda"


# ACE


def test_a_round_of_ace_trains_as_many_steps_whatever_the_number_of_photos(
    monkeypatch, identity, diffusion
):
    with calls(monkeypatch, FineTuner, "step") as steps:
        build("ace", rounds=2, training_steps=3).perturb(identity, diffusion, Job(0))

    assert [index for _, _, index, _ in steps] == [0, 1, 2, 3, 4, 5]


# SimAC


def test_the_search_keeps_timesteps_with_large_gradients_and_none_near_a_deleted_one(identity):
    original = identity.instance_images.pixels
    protection = protections.build("simac")
    tried: dict[int, torch.Tensor] = {}

    def toy(pixels: torch.Tensor, number: int, timesteps: torch.Tensor) -> torch.Tensor:
        tried[number] = timesteps
        sizes = torch.stack([timesteps[0] + 1.0, 1000.0 - timesteps[1]])  # late; early
        return sizes[..., None, None, None] * torch.ones_like(pixels)[:, None]

    kept = Timesteps(2, 1000)
    protection.search(toy, original, kept, Job(0))

    late, early = (set(mask.nonzero()[:, 0].tolist()) for mask in kept.mask)
    rounds = [tried[number] for number in sorted(tried)]
    assert late == _left([int(candidates[0].min()) for candidates in rounds])
    assert early == _left([int(candidates[1].max()) for candidates in rounds])
    assert sum(late) / len(late) > 700
    assert sum(early) / len(early) < 300


def test_a_nan_in_simacs_search_is_no_small_gradient() -> None:
    original = torch.full((1, 3, 2, 2), 0.5)

    def broken(pixels: torch.Tensor, number: int, tried: torch.Tensor) -> torch.Tensor:
        return torch.full((1, tried.shape[1], 3, 2, 2), float("nan") if number == 1 else 1.0)

    with pytest.raises(CloakBenchError, match="'simac': the perturbation became NaN"):
        build("simac", search_rounds=3, enough=100).search(
            broken, original, Timesteps(1, 1000), Job(0)
        )


def _left(deleted: list[int]) -> set[int]:
    """What 1000 timesteps become when those within 20 of each go, until 100 or fewer are left."""
    left = set(range(1000))
    for centre in deleted:
        if len(left) <= 100:
            break
        left -= set(range(centre - 20, centre + 21))
    return left


def test_a_photo_whose_search_is_over_does_not_change_while_others_go_on():
    kept = Timesteps(2, 1000)
    kept.mask[0, 60:] = False
    before = kept.mask.clone()
    protection = protections.build({"method": "simac", "search_rounds": 3})
    start = torch.full((2, 3, 8, 8), 0.5)
    seen = []

    def toy(pixels: torch.Tensor, number: int, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.detach().clone())
        return (timesteps + 1)[..., None, None, None] * torch.ones_like(pixels)[:, None]

    protection.search(toy, start, kept, Job(0))

    assert torch.equal(kept.mask[0], before[0])
    assert kept.counts()[1] < 1000
    assert torch.equal(seen[-1][0], start[0])
    assert not torch.equal(seen[-1][1], start[1])


def test_candidates_share_an_encoding_and_have_the_gradients_of_losses_of_their_own(
    monkeypatch, identity, diffusion
):
    pixels = identity.instance_images.pixels
    tried = torch.tensor([[3, 500, 900], [10, 20, 30]])

    with calls(monkeypatch, diffusion.vae, "encode") as encodings:
        found = build("simac").tried(identity, diffusion, Job(0))(pixels, 4, tried)

    loss = Denoising(diffusion, identity.prompts.instance_prompt, Job(0))
    for number, timesteps in enumerate(tried.T):
        at = lambda pixels, step, rows, timesteps=timesteps: loss(pixels, step, rows, timesteps)  # noqa: E731
        assert torch.equal(found[:, number], gradient(at, pixels, 4))
    assert len(encodings) == 1


def test_aspl_then_draws_only_kept_timesteps(monkeypatch, identity, diffusion):
    kept = Timesteps(2, 1000)
    kept.mask[0, 100:] = False
    kept.mask[1, :900] = False
    original = identity.instance_images.pixels
    loss = build("simac").objective(kept, original, diffusion, "a photo", Job(0))

    with calls(monkeypatch, diffusion, "denoising_loss") as seen:
        for step in range(20):
            loss(original, step, ALL)

    timesteps = torch.stack([arguments[3] for arguments in seen])
    assert timesteps[:, 0].max() < 100
    assert timesteps[:, 1].min() >= 900
    assert len(timesteps.unique()) > 20


def test_the_feature_term_is_nought_at_the_clean_photo_and_has_a_gradient_elsewhere(
    identity, diffusion
):
    kept, original = Timesteps(2, 1000), identity.instance_images.pixels
    arguments = (kept, original, diffusion, "a photo", Job(0))
    plain = build("simac").objective(*arguments)
    full = build("simac", feature_weight=2.0).objective(*arguments)
    moved = (original + 0.05).clamp(0, 1).requires_grad_(True)

    torch.testing.assert_close(full(original, 0, ALL), plain(original, 0, ALL))
    extra = (full(moved, 0, ALL) - plain(moved, 0, ALL)) / 2
    (gradient,) = torch.autograd.grad(extra.sum(), moved)

    outputs = []
    for pixels in (moved, original):
        with recorded(diffusion.unet.up_blocks[-1].resnets) as features, torch.no_grad():
            plain(pixels, 0, ALL)
        outputs.append(features)
    distances = [((a - b) ** 2).mean(dim=(1, 2, 3)) for a, b in zip(*outputs, strict=True)]
    torch.testing.assert_close(extra, sum(distances) / len(distances), rtol=1e-3, atol=1e-7)
    assert gradient.abs().max() > 0
    assert not any(r._forward_hooks for r in diffusion.unet.up_blocks[-1].resnets)


def test_the_feature_term_is_each_photos_own_in_batches(identity, diffusion):
    original = identity.instance_images.pixels
    arguments = (Timesteps(2, 1000), original, diffusion, "a photo", Job(0))
    moved = original.clone()
    moved[1] = (moved[1] + 0.05).clamp(0, 1)
    plain = build("simac").objective(*arguments)
    full = build("simac", feature_weight=2.0).objective(*arguments)

    first, second = (
        full(moved[rows], 0, rows) - plain(moved[rows], 0, rows)
        for rows in (slice(0, 1), slice(1, 2))
    )

    assert first == 0
    assert second > 0


def test_a_search_that_could_delete_everything_is_refused():
    with pytest.raises(CloakBenchError, match=r"'simac': enough = 44: at least 45 are needed"):
        build("simac", enough=44)


# MetaCloak


def test_a_transformation_is_seeded_keeps_the_range_and_keeps_photos_apart(identity):
    protection = build("metacloak", smallest_crop=0.7)
    pixels = identity.instance_images.pixels
    draw = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731

    for seed in range(5):
        result = protection.transform(pixels, draw(seed))
        assert torch.equal(protection.transform(pixels, draw(seed)), result)
        assert not torch.equal(protection.transform(pixels, draw(seed + 1)), result)
        assert torch.equal(protection.transform(pixels[:1], draw(seed)), result[:1])
        assert result.shape == pixels.shape
        assert result.min() >= -1e-6
        assert result.max() <= 1 + 1e-6


def test_a_transformation_is_differentiable_at_every_pixel(identity):
    pixels = identity.instance_images.pixels.clone().requires_grad_(True)

    transformed = build("metacloak").transform(pixels, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(transformed.sum(), pixels)

    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_is_torchvisions(sigma, identity):
    image = identity.instance_images.pixels[:1]

    torch.testing.assert_close(blurred(image, sigma), vision.gaussian_blur(image, [7, 7], [sigma]))


def test_the_blurs_gradient_is_torchvisions(identity):
    image = identity.instance_images.pixels[:1].clone().requires_grad_(True)
    weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))

    def gradient(blur: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((blur * weights).sum(), image)[0]

    expected = gradient(vision.gaussian_blur(image, [7, 7], [1.5]))
    torch.testing.assert_close(gradient(blurred(image, 1.5)), expected)


def test_the_crop_is_torchvisions_and_none_changes_nothing(identity):
    image = identity.instance_images.pixels[:1]

    expected = vision.resize(vision.center_crop(image, [48, 48]), [64, 64], antialias=True)
    torch.testing.assert_close(cropped(image, 0.75), expected)
    torch.testing.assert_close(cropped(image, 1.0), image)


@pytest.mark.parametrize(
    ("preset", "visits"), [("lite", [0, 1, 2]), ("paper", [0, 1, 2, 3, 4, 5] * 4)]
)
def test_metacloak_visits_the_checkpoints_that_it_says(
    preset, visits, monkeypatch, identity, diffusion
):
    short = {"training_steps": 10, "rounds": 1, "pgd_steps": 1, "retraining_steps": 0}
    spec = {"method": "metacloak", "preset": preset, "learning_rate": 1e-3, **short}
    kept_after = {"lite": [0, 5, 10], "paper": [0, 2, 4, 6, 8, 10]}[preset]

    kept_at = _training_steps_before(monkeypatch, Checkpoints, "keep")
    with calls(monkeypatch, Checkpoints, "load") as loads:
        protections.build(spec).perturb(identity, diffusion, Job(0))

    checkpoints = loads[0][0]
    assert [index for _, index, _ in loads] == visits
    assert kept_at == kept_after
    assert not all(map(torch.equal, checkpoints._kept[0], checkpoints._kept[-1]))
    assert all(weight.device.type == "cpu" for weight in checkpoints._kept[0])


def test_lite_is_one_trial_of_three_checkpoints_and_forty_rounds():
    lite = protections.build({"method": "metacloak", "preset": "lite"})

    assert (lite.trials, lite.checkpoints, lite.rounds) == (1, 3, 40)
    assert lite.training_steps == protections.build("metacloak").training_steps


def _training_steps_before(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[int]:
    """How many training steps had been taken at each call of a function."""
    taken, at = [], []
    step, function = FineTuner.step, getattr(place, name)
    monkeypatch.setattr(FineTuner, "step", lambda *args: taken.append(step(*args)))
    monkeypatch.setattr(place, name, lambda *args: (at.append(len(taken)), function(*args)))
    return at


@pytest.mark.parametrize(("faithful", "known"), [(True, 2), (False, 5)])
def test_the_faithful_metacloak_retrains_on_the_first_class_images(
    faithful, known, monkeypatch, tiny_model
):
    identity = Identity(smooth_photos(2, 0), Prompts(), None, smooth_photos(5, 2))
    settings = {"training_steps": 3, "retraining_steps": 2, "rounds": 1, "pgd_steps": 1}
    seen: list[int] = []
    step = FineTuner.step

    def spy(tuner: FineTuner, *arguments: Any) -> None:
        assert tuner.prior is not None
        seen.append(len(tuner.prior.latents))
        step(tuner, *arguments)

    monkeypatch.setattr(FineTuner, "step", spy)
    build("metacloak", faithful=faithful, **settings).perturb(
        identity, load_model(tiny_model), Job(0)
    )

    assert set(seen[:3]) == {5}
    assert set(seen[3:]) == {known}


def test_a_visit_starts_from_the_weights_that_were_kept_with_new_moments(identity, diffusion):
    protection = build("metacloak", learning_rate=1e-3)
    tuner = protection.tuner(diffusion, identity, Job(0))
    images = diffusion.posterior_once(identity.instance_images.pixels)
    checkpoints = Checkpoints()
    checkpoints.keep(tuner)
    before = [p.detach().clone() for p in tuner.parameters]

    tuner.step(images, 0, Job(0).rng)
    checkpoints.load(0, tuner)

    assert all(map(torch.equal, tuner.parameters, before))
    assert not tuner.optimiser.state_dict()["state"]


# CAAT


def test_caat_trains_keys_and_values_of_the_cross_attention_and_nothing_else(identity, diffusion):
    networks = (diffusion.unet, diffusion.text_encoder, diffusion.vae)
    before = [copies(network) for network in networks]

    build("caat", learning_rate=1e-3).perturb(identity, diffusion, Job(0))

    trained, *others = map(changed, networks, before)
    assert trained == {n for n in before[0] if "attn2.to_k" in n or "attn2.to_v" in n}
    assert others == [set(), set()]
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_a_step_of_caat_is_one_gradient_for_pixels_and_weights(identity, tiny_model, diffusion):
    original = identity.instance_images.pixels
    learning_rate = 1e-3

    pixels = build("caat", steps=1, learning_rate=learning_rate).perturb(
        identity, diffusion, Job(0)
    )

    other = load_model(tiny_model)
    weights = {
        n: p.requires_grad_(True)
        for n, p in other.unet.named_parameters()
        if "attn2.to_k" in n or "attn2.to_v" in n
    }
    moved = original.clone().requires_grad_(True)
    loss = Denoising(other, identity.prompts.class_prompt, Job(0))(moved, 0, ALL).mean()
    grad, *grads = torch.autograd.grad(loss, [moved, *weights.values()])
    expected = torch.clamp(original + 0.1 * 11 / 255 * grad.sign(), 0, 1)
    norm = torch.sqrt(sum(g.square().sum() for g in grads)).clamp(min=1)
    torch.testing.assert_close(pixels, expected)
    trained = dict(diffusion.unet.named_parameters())
    for (name, weight), g in zip(weights.items(), grads, strict=True):
        direction = (g / norm) / ((g / norm).abs() + 1e-8)  # AdamW's first step
        after = weight.detach() * (1 - learning_rate * 1e-2) - learning_rate * direction
        torch.testing.assert_close(trained[name].detach(), after, rtol=1e-4, atol=1e-6)


def test_caats_keys_and_values_have_the_mean_gradient_of_photos_in_batches(monkeypatch, tiny_model):
    identity = Identity(smooth_photos(5, 0), Prompts())

    def trained(batch: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("cloakbench.protect.pgd.BATCH", batch)
        monkeypatch.setattr(Denoising, "latents", same_draws)
        model = load_model(tiny_model)
        build("caat", steps=1, learning_rate=1e-3).perturb(identity, model, Job(0))
        return {n: p.detach() for n, p in model.unet.named_parameters() if "attn2.to_k" in n}

    def same_draws(self: Denoising, pixels: torch.Tensor, step: int, rows: slice) -> Any:
        """Each photo's by its place, so that batches have those of all at once."""
        rng = torch.Generator().manual_seed(3)
        return self._model.posterior(pixels).mean, rng

    monkeypatch.setattr(
        Denoising,
        "of_latents",
        lambda self, latents, rng, timesteps: self._model.predict(
            latents, 500, self._text.repeated(len(latents))
        ).square().flatten(1).mean(1),
    )  # fmt: skip

    alone, together = trained(2), trained(5)
    for name, weights in alone.items():
        torch.testing.assert_close(weights, together[name], rtol=0, atol=2e-5)


def test_caat_raises_the_loss_of_the_model_by_more_than_noise_changes_it(identity, tiny_model):
    model = load_model(tiny_model)

    def loss(pixels: torch.Tensor) -> float:
        score = Denoising(model, identity.prompts.class_prompt, Job(7))
        with torch.no_grad():
            return torch.stack([score(pixels, step, ALL) for step in range(30)]).mean().item()

    original = identity.instance_images.pixels
    noise = build("noise", budget=32).perturb(identity, Job(1))
    protected = perturb("caat", identity, tiny_model, Job(1), budget=32, steps=60)

    assert loss(protected) - loss(original) > 3 * abs(loss(noise) - loss(original))
