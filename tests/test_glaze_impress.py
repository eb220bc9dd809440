"""Glaze and IMPRESS: their objectives by hand, and what optimising them does to photos."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smooth_photos

from cloakbench.models.base import Latents
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.perceptual import dssim
from cloakbench.models.vae import padded
from cloakbench.protect import protections
from cloakbench.protect.glaze import latent_distance
from cloakbench.purify import purifiers
from cloakbench.purify.impress import LAST_RATE, inconsistency
from cloakbench.running.jobs import Job


class Averaging:
    """A stand-in for a model whose autoencoder keeps the averages of 8 x 8 blocks, exactly."""

    device = "cpu"
    full_precision = nullcontext
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1, 1, 1, 1)))

    def padded(self, pixels: torch.Tensor) -> torch.Tensor:
        return padded(pixels, self.vae)

    def posterior(self, pixels: torch.Tensor) -> Latents:
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return Latents(mean, torch.zeros_like(mean))

    def mode(self, latents: Latents) -> torch.Tensor:
        return latents.mean

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(8, -1).repeat_interleave(8, -2)


def consistent_photos() -> torch.Tensor:
    """Photos that the stand-in reproduces: blocks of one colour, away from 0 and 1."""
    coarse = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return Averaging().decode(0.2 + 0.6 * coarse)


def impress(**settings: Any) -> Any:
    spec = {"method": "impress", "perceptual": "dssim", "perceptual_weight": 0, "noise": 0}
    return purifiers.build(spec | settings)


def test_glazes_distance_is_the_mean_square_of_unscaled_posterior_means(diffusion):
    photos, target = smooth_photos(2, 0).pixels, torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        encoded = diffusion.vae.encode(2 * photos - 1).latent_dist.mean.numpy()

    expected = ((encoded - target.numpy()) ** 2).mean((1, 2, 3))
    values = latent_distance(diffusion, photos, target)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4)


def test_inconsistency_is_the_mean_square_change_of_a_round_trip_on_minus_one_to_one(diffusion):
    photos = 2 * smooth_photos(2, 0).pixels - 1
    with torch.no_grad():
        reproduced = diffusion.vae(photos).sample.clamp(-1, 1).numpy()

    expected = ((reproduced - photos.numpy()) ** 2).mean((1, 2, 3))
    values = inconsistency(diffusion, photos / 2 + 0.5)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4)


def test_the_style_target_is_another_picture_with_its_own_noise_per_photo(identity, diffusion):
    photo = identity.instance_images.pixels[:1]
    glaze = protections.build({"method": "glaze", "preset": "tiny", "style_strength": 0.5})

    drawn = glaze.stylised(torch.cat([photo, photo]), diffusion, Job(0))
    alone = glaze.stylised(photo, diffusion, Job(0))

    assert drawn.shape == (2, *photo.shape[1:])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn[0] - photo[0]).abs().mean() > 0.01
    assert (drawn[0] - drawn[1]).abs().mean() > 0.001
    torch.testing.assert_close(drawn[:1], alone, rtol=0, atol=1e-4)


def glaze_run(identity: Any, diffusion: StableDiffusion, **settings: Any) -> tuple[float, ...]:
    """Distance to the style's latents before and after, largest change [levels], mean DSSIM."""
    spec = {"method": "glaze", "preset": "tiny", "steps": 25, "style_strength": 0.5}
    glaze = protections.build(spec | settings)
    original = identity.instance_images.pixels
    target = diffusion.posterior_once(glaze.stylised(original, diffusion, Job(1))).mean
    pixels = glaze.protect(identity, lambda: diffusion, Job(1)).pixels
    return (
        float(latent_distance(diffusion, original, target).mean()),
        float(latent_distance(diffusion, pixels, target).mean()),
        float((255 * (pixels - original)).abs().max().round()),
        float(dssim(pixels, original).mean()),
    )


def test_glaze_comes_nearer_to_the_style_within_its_budget(identity, diffusion):
    free = {"perceptual_weight": 0}
    before, small, change, _ = glaze_run(identity, diffusion, budget=8, **free)
    _, large, unbounded, _ = glaze_run(identity, diffusion, budget=255, **free)

    assert small < 0.98 * before
    assert large < small
    assert change == 8
    assert unbounded > 20


def test_glazes_hinge_holds_the_perceptual_distance(identity, diffusion):
    *_, free = glaze_run(identity, diffusion, budget=255, perceptual_weight=0)
    *_, held = glaze_run(identity, diffusion, budget=255, perceptual_bound=0.02)

    assert held < 0.5 * free


def test_glazes_paper_preset_states_that_no_budget_bounds_it():
    assert protections.build({"method": "glaze", "preset": "paper"}).budget == 255
    assert protections.build({"method": "glaze"}).budget == 11


def test_impress_does_not_move_what_the_autoencoder_reproduces():
    photos = consistent_photos()

    cleaned = impress(steps=30).clean(photos, Averaging(), Job(0))

    torch.testing.assert_close(cleaned, photos, rtol=0, atol=1e-4)


def test_impress_removes_what_the_autoencoder_does_not_reproduce():
    photos = consistent_photos()
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(16, 20)

    cleaned = impress(steps=200, learning_rate=0.01).clean(
        photos + 0.04 * board, Averaging(), Job(0)
    )

    assert inconsistency(Averaging(), cleaned).max() < 0.01 * 4 * 0.04**2
    torch.testing.assert_close(cleaned, photos, rtol=0, atol=0.004)


def test_impress_lets_its_noise_settle_near_the_photo():
    photos = consistent_photos()

    cleaned = impress(steps=200, learning_rate=0.01, noise=0.05).clean(photos, Averaging(), Job(0))

    assert (cleaned - photos).abs().mean() < 0.2 * 0.05


def test_impress_lowers_its_loss_on_a_real_autoencoder_and_its_hinge_holds(diffusion):
    photos = smooth_photos(2, 0).pixels
    settings = {"steps": 25, "learning_rate": 0.02}
    free = impress(**settings).clean(photos, diffusion, Job(0))
    tight = {"perceptual_weight": 50, "perceptual_bound": 0.01}
    held = impress(**settings, **tight).clean(photos, diffusion, Job(0))

    assert inconsistency(diffusion, free).mean() < 0.8 * inconsistency(diffusion, photos).mean()
    assert (dssim(held, photos) < 0.5 * dssim(free, photos)).all()


def test_impress_is_the_same_for_an_image_alone_and_in_a_batch_but_for_rounding(diffusion):
    photos = smooth_photos(3, 0).pixels
    settings = {"steps": 5, "noise": 0.05, "perceptual_weight": 1}

    together = impress(batch_size=2, **settings).clean(photos, diffusion, Job(0))
    first = impress(**settings).clean(photos[:1], diffusion, Job(0))

    # Adam turns rounding of gradients near 0 into steps, on some processors more than on others
    rounding = (together[:1] - first).abs().mean()
    assert rounding < 0.002 * (first - photos[:1]).abs().mean()


def test_impresss_rate_falls_on_a_cosine():
    method = impress(steps=100, learning_rate=0.01)

    assert method.rate(0) == pytest.approx(0.01)
    assert method.rate(50) == pytest.approx((0.01 + LAST_RATE) / 2)
    assert method.rate(100) == pytest.approx(LAST_RATE)


def test_impress_pads_by_repeating_edges_until_the_factor_divides():
    photos = smooth_photos(1, 0).pixels[:, :, :49, :64]

    wide = padded(photos, Averaging().vae)

    assert wide.shape == (1, 3, 56, 64)
    assert torch.equal(wide[:, :, :49], photos)
    assert torch.equal(wide[:, :, 55], photos[:, :, 48])


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", (3000, 0.005, 0.1, 0.1, 0.05, "lpips")),
        ("photoguard", (1000, 0.0025, 0.01, 0.1, 0.025, "lpips")),
    ],
)
def test_impresss_presets_are_the_references_halved_from_minus_one_to_one(preset, expected):
    method = purifiers.build({"method": "impress", "preset": preset})

    assert (
        method.steps,
        method.learning_rate,
        method.perceptual_weight,
        method.perceptual_bound,
        method.noise,
        method.perceptual,
    ) == expected
