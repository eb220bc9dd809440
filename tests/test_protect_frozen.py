"""Protections that perturb each photo by itself, against formulas written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALL, smooth_photos
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, save_photos
from cloakbench.files.outputs import sha256
from cloakbench.identity import Identity
from cloakbench.models.base import Text
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.protect import protections
from cloakbench.protect.photowise import PhotowiseProtection
from cloakbench.protect.target import draw_target
from cloakbench.registry import weight_files
from cloakbench.running.jobs import Job

PHOTOWISE = [m.name for m in protections if issubclass(m, PhotowiseProtection)]
RANDOM_STARTS = {"pid", "photoguard", "mist", "advdm"}


def build(name: str, **settings: Any) -> PhotowiseProtection:
    protection = protections.build({"method": name, "preset": "tiny", **settings})
    assert isinstance(protection, PhotowiseProtection)
    return protection


def objective(name: str, model: StableDiffusion, identity: Identity, **settings: Any):
    """A method's objective for the first photo, and pixels a little away from that photo."""
    photo = identity.instance_images.pixels[:1]
    loss = build(name, **settings).objective(photo, model, identity.prompts, Job(0))
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(7)) - 0.5
    return loss, (photo + 0.1 * noise).clamp(0, 1)


def perturbed(name: str, model: StableDiffusion, identity: Identity, **settings: Any) -> Tensor:
    return build(name, budget=32, **settings).perturb(identity, model, Job(1))


def posterior(model: StableDiffusion, pixels: Tensor):
    """What diffusers itself makes of the pixels."""
    return model.vae.encode(2 * pixels - 1).latent_dist


def scaled_mean(model: StableDiffusion, pixels: Tensor) -> Tensor:
    return posterior(model, pixels).mean * model.vae.config.scaling_factor


def target_latents(model: StableDiffusion, size: int) -> Tensor:
    image = torch.from_numpy(np.array(draw_target(size, size))).permute(2, 0, 1)[None] / 255
    return scaled_mean(model, image)


def distances(model: StableDiffusion, pixels: Tensor, goal: Tensor | float) -> Tensor:
    with torch.no_grad():
        return (scaled_mean(model, pixels) - goal).square().flatten(1).mean(1)


def denoising_loss(model: StableDiffusion, identity: Identity, pixels: Tensor) -> float:
    """The loss under the class prompt, over draws that are always the same."""
    draws = [torch.Generator().manual_seed(seed) for seed in range(30)]
    with torch.no_grad():
        text = model.embed([identity.prompts.class_prompt] * len(pixels))
        latents = model.posterior(pixels)
        values = [model.denoising_loss(model.draw(latents, rng), text, rng) for rng in draws]
    return float(torch.stack(values).double().mean())


# The target


@pytest.mark.parametrize("size", [64, 128, 512])
def test_the_target_is_black_and_white_in_equal_parts_at_every_size(size):
    pixels = np.asarray(draw_target(size, size))

    assert pixels.shape == (size, size, 3)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels == 255).mean() == 0.5
    coarse = np.asarray(draw_target(32, 32))
    np.testing.assert_array_equal(pixels[:: size // 32, :: size // 32], coarse)


def test_a_photo_can_be_the_target(diffusion, identity, tmp_path):
    wide = smooth_photos(1, 9, resolution=128)
    save_photos(Photos(wide.pixels[..., :96], ("goal",)), tmp_path)
    photo = identity.instance_images.pixels[:1]

    protection = build("mist", target=tmp_path / "goal.png")
    protection.check()
    goal = protection.target_latents(photo, diffusion)

    near = functional.interpolate(wide.pixels[..., 16:112, :96], 64, mode="area")
    assert distances(diffusion, near, goal) < 0.1 * distances(diffusion, photo, goal)


def test_a_missing_target_is_found_out_by_the_check(tmp_path):
    with pytest.raises(CloakBenchError, match=r"no\.png: no such photo"):
        build("ace", target=tmp_path / "no.png").check()


# Photo by photo


@pytest.mark.parametrize("name", PHOTOWISE)
def test_random_starts_lie_within_the_budget_and_fill_it(name, identity):
    original = identity.instance_images.pixels * 0.8 + 0.1  # away from black and white
    protection = build(name, budget=20)

    change = (protection.start(original, Job(0)) - original) * 255

    if name in RANDOM_STARTS:
        assert change.abs().max() <= 20 + 1e-3
        assert change.abs().mean() == pytest.approx(10, abs=0.3)
        assert not torch.equal(change[0], change[1])
    else:
        assert not change.any()


def nearly_alike(a: Tensor, b: Tensor) -> bool:
    """Whether pixels agree but for those whose gradient is so small that rounding turns it."""
    return float(torch.isclose(a, b, rtol=0, atol=1e-6).float().mean()) > 0.99


@pytest.mark.parametrize("name", [name for name in PHOTOWISE if name != "ace"])
def test_a_photo_comes_out_the_same_alone_and_among_others_but_for_rounding(
    name, identity, diffusion
):
    photos = identity.instance_images
    first = identity._replace(instance_images=Photos(photos.pixels[:1], photos.names[:1]))

    together = perturbed(name, diffusion, identity)
    alone = perturbed(name, diffusion, first)

    assert nearly_alike(together[:1], alone)
    assert not nearly_alike(together[1:] - photos.pixels[1:], alone - photos.pixels[:1])


@pytest.mark.parametrize("name", [name for name in PHOTOWISE if name != "ace"])
def test_photos_come_out_the_same_in_batches_and_at_once_but_for_rounding(
    name, identity, diffusion, monkeypatch
):
    many = identity._replace(instance_images=smooth_photos(5, 0))

    apart = perturbed(name, diffusion, many)
    monkeypatch.setattr("cloakbench.protect.pgd.BATCH", 5)
    at_once = perturbed(name, diffusion, many)

    assert nearly_alike(apart, at_once)
    moved = (apart - many.instance_images.pixels).abs().amax((1, 2, 3))
    assert (moved > 0).all()


# PID


def test_pid_is_the_squared_change_of_mean_and_log_variance(identity, diffusion):
    loss, pixels = objective("pid", diffusion, identity)
    before = posterior(diffusion, identity.instance_images.pixels[:1])
    after = posterior(diffusion, pixels)

    expected = functional.mse_loss(after.mean, before.mean)
    expected = expected + functional.mse_loss(after.logvar, before.logvar)

    torch.testing.assert_close(loss(pixels, 0, ALL), expected[None])


def test_pid_shifts_the_latents_much_more_than_noise_does(identity, diffusion):
    def shift(pixels: Tensor) -> float:
        loss, _ = objective("pid", diffusion, identity)
        return float(loss(pixels[:1], 0, ALL))

    noise = build("pid", budget=32).start(identity.instance_images.pixels, Job(1))
    protected = perturbed("pid", diffusion, identity, steps=20)

    assert shift(protected) > 3 * shift(noise)


# PhotoGuard


@pytest.mark.parametrize("towards", ["zero", "target"])
def test_photoguard_is_the_distance_to_zero_or_the_target(towards, identity, diffusion):
    loss, pixels = objective("photoguard", diffusion, identity, towards=towards)
    goal = target_latents(diffusion, 64) if towards == "target" else torch.zeros(())

    expected = -(scaled_mean(diffusion, pixels) - goal).square().mean()

    torch.testing.assert_close(loss(pixels, 0, ALL), expected[None])


def test_photoguards_steps_shrink_linearly_from_a_third_of_the_budget_to_a_hundredth_of_that():
    protection = build("photoguard", budget=30, steps=1000)

    sizes = np.array([protection.step_size(step) * 255 for step in range(1000)])

    assert sizes[0] == pytest.approx(10)
    assert sizes[-1] == pytest.approx(0.1, rel=0.1)
    np.testing.assert_allclose(np.diff(sizes), np.diff(sizes)[0], atol=1e-9)


# AdvDM, Mist


def test_the_directions_of_advdm_are_opposites(identity, diffusion):
    up, pixels = objective("advdm", diffusion, identity)
    down, _ = objective("advdm", diffusion, identity, direction="descend")

    assert torch.equal(up(pixels, 3, ALL), -down(pixels, 3, ALL))
    assert not torch.equal(up(pixels, 3, ALL), up(pixels, 4, ALL))


def test_the_directions_of_advdm_move_the_denoising_loss_in_opposite_senses(identity, diffusion):
    clean = denoising_loss(diffusion, identity, identity.instance_images.pixels)

    up = perturbed("advdm", diffusion, identity, direction="ascend", steps=20)
    down = perturbed("advdm", diffusion, identity, direction="descend", steps=20)

    assert denoising_loss(diffusion, identity, up) > clean
    assert denoising_loss(diffusion, identity, down) < clean


def test_fused_mist_is_the_rate_times_the_semantic_minus_the_texture_loss(identity, diffusion):
    texture, pixels = objective("mist", diffusion, identity, mode="texture")
    semantic, _ = objective("mist", diffusion, identity, mode="semantic")
    fused, _ = objective("mist", diffusion, identity, rate=0.4)

    torch.testing.assert_close(
        fused(pixels, 5, ALL), 0.4 * semantic(pixels, 5, ALL) + texture(pixels, 5, ALL)
    )
    expected = -(scaled_mean(diffusion, pixels) - target_latents(diffusion, 64)).square().mean()
    torch.testing.assert_close(texture(pixels, 5, ALL), expected[None])


def test_mists_default_rate_is_the_references_at_512_px():
    latent_values = 4 * 64 * 64  # a sum there, a mean here

    assert build("mist").rate * latent_values == pytest.approx(1e4, rel=1e-3)


def test_semantic_mist_is_advdm(identity, diffusion):
    assert torch.equal(
        perturbed("mist", diffusion, identity, mode="semantic"),
        perturbed("advdm", diffusion, identity),
    )


# SDS


@pytest.fixture(params=["epsilon", "v_prediction"])
def either(request, tiny_model, tiny_v_model) -> StableDiffusion:
    """A model that predicts noise, and one that predicts velocity."""
    spec = tiny_model if request.param == "epsilon" else tiny_v_model
    return load_model(spec)


def residual_by_hand(model: StableDiffusion, pixels: Tensor, text: Text, rng: Any):
    """Scaled latents and the U-Net's error on them, with diffusers' own calls in our order."""
    latents = posterior(model, pixels)
    sample = torch.randn(latents.mean.shape, generator=rng)
    drawn = (latents.mean + latents.std * sample) * model.vae.config.scaling_factor
    noise = torch.randn(drawn.shape, generator=rng)
    timesteps = torch.randint(0, 1000, (1,), generator=rng)
    with torch.no_grad():
        noisy = model.scheduler.add_noise(drawn, noise, timesteps)
        predicted = model.unet(noisy, timesteps, encoder_hidden_states=text.embeddings).sample
    if model.scheduler.config.prediction_type == "v_prediction":
        noise = model.scheduler.get_velocity(drawn.detach(), noise, timesteps)
    return drawn, predicted - noise


@pytest.mark.parametrize("direction", ["ascend", "descend"])
def test_the_gradient_of_sds_is_the_residual_sent_back_through_the_encoder(
    direction, identity, either
):
    loss, pixels = objective("sds", either, identity, direction=direction)
    pixels.requires_grad_(True)
    text = either.embed([identity.prompts.class_prompt])

    drawn, residual = residual_by_hand(either, pixels, text, Job(0).part("photo", 0).rng("pgd", 2))
    (expected,) = torch.autograd.grad(drawn, pixels, grad_outputs=residual)
    (gradient,) = torch.autograd.grad(loss(pixels, 2, ALL).sum(), pixels)

    sign = 1 if direction == "ascend" else -1
    mean = gradient * residual.numel()  # a mean over latent values: the same signs
    torch.testing.assert_close(mean, sign * expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_sdst_adds_the_pull_to_the_target(identity, diffusion):
    loss, pixels = objective("sds", diffusion, identity, targeted=True, rate=5)
    pixels.requires_grad_(True)
    text = diffusion.embed([identity.prompts.class_prompt])

    drawn, residual = residual_by_hand(
        diffusion, pixels, text, Job(0).part("photo", 0).rng("pgd", 2)
    )
    (score,) = torch.autograd.grad(drawn, pixels, grad_outputs=residual)
    away = scaled_mean(diffusion, pixels) - target_latents(diffusion, 64)
    (texture,) = torch.autograd.grad(away.square().sum(), pixels)
    (gradient,) = torch.autograd.grad(loss(pixels, 2, ALL).sum(), pixels)

    mean = gradient * residual.numel()
    torch.testing.assert_close(mean, -5 * score - texture, rtol=1e-4, atol=1e-5)


def test_the_unet_runs_without_gradients_in_sds(identity, diffusion):
    seen = []
    diffusion.unet.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))

    perturbed("sds", diffusion, identity, steps=1)

    assert seen == [False]  # for both photos at once


# Targets, and ACE


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("photoguard", {"towards": "target"}),
        ("mist", {"mode": "texture"}),
        ("mist", {"mode": "fused"}),
        ("sds", {"targeted": True, "rate": 0.1}),
        ("ace", {"texture_weight": 100}),
    ],
)
def test_a_targeted_protection_brings_every_photo_nearer_to_the_target(
    name, settings, identity, diffusion
):
    goal = target_latents(diffusion, 64)
    before = distances(diffusion, identity.instance_images.pixels, goal)

    protected = perturbed(name, diffusion, identity, steps=20, **settings)

    assert (distances(diffusion, protected, goal) < 0.9 * before).all()


def test_photoguard_brings_every_photo_nearer_to_zero(identity, diffusion):
    before = distances(diffusion, identity.instance_images.pixels, 0)

    protected = perturbed("photoguard", diffusion, identity, steps=20)

    assert (distances(diffusion, protected, 0) < 0.9 * before).all()


def test_ace_is_the_distance_of_the_prediction_to_the_targets_latents(identity, diffusion):
    loss, pixels = objective("ace", diffusion, identity, texture_weight=3)
    text = diffusion.embed([identity.prompts.instance_prompt])
    latents, goal = scaled_mean(diffusion, pixels), target_latents(diffusion, 64)

    rng = Job(0).part("photo", 0).rng("pgd", 1)
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.randint(0, 1000, (1,), generator=rng)
    noisy = diffusion.scheduler.add_noise(latents, noise, timesteps)
    predicted = diffusion.unet(noisy, timesteps, encoder_hidden_states=text.embeddings).sample
    expected = -(predicted - goal).square().mean() - 3 * (latents - goal).square().mean()

    torch.testing.assert_close(loss(pixels, 1, ALL), expected[None])


def test_ace_pulls_the_prediction_to_the_target(identity, diffusion):
    def pull(pixels: Tensor) -> float:
        loss, _ = objective("ace", diffusion, identity)
        with torch.no_grad():
            return float(
                torch.cat([loss(pixels[:1], step, ALL) for step in range(1000, 1030)]).mean()
            )

    clean = pull(identity.instance_images.pixels)
    protected = perturbed("ace", diffusion, identity, steps=20, training_steps=0)

    assert pull(protected) > clean


def test_ace_trains_its_lora_factors_and_leaves_the_models_own_weights(identity, diffusion):
    networks = (diffusion.unet, diffusion.text_encoder, diffusion.vae)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]

    perturbed("ace", diffusion, identity, training_steps=2, learning_rate=1e-2)

    for network, own in zip(networks, before, strict=True):
        after = {k.replace(".base_layer", ""): v for k, v in network.state_dict().items()}
        assert all(torch.equal(after[key], value) for key, value in own.items())
    factors = [v for k, v in diffusion.unet.named_parameters() if "lora_B" in k]
    assert factors
    assert all(factor.any() for factor in factors)  # they begin at zero, or at a draw
    assert all(p.grad is None for p in diffusion.unet.parameters())


def test_ace_learns_from_what_it_has_perturbed(identity, diffusion):
    """Round two's perturbation depends on what the surrogate learnt in round one."""
    trained = perturbed("ace", diffusion, identity, learning_rate=1e-2)
    fresh = load_model(diffusion.spec)
    untrained = perturbed("ace", fresh, identity, training_steps=0)

    assert not torch.equal(trained, untrained)


def test_another_target_under_the_same_name_counts_as_other_weights(tmp_path):
    target = tmp_path / "target.png"
    protection = protections.build({"method": "mist", "target": str(target)})
    digests = []
    for colour in ("black", "white"):
        Image.new("RGB", (64, 64), colour).save(target)
        [each] = weight_files(protection)
        digests.append(sha256(each.file))

    assert digests[0] != digests[1]
