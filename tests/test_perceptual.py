"""Perceptual distances against independent computations, and the hinge that they feed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth_photos
from skimage.metrics import structural_similarity

from cloakbench.descent import PerceptualDescent
from cloakbench.errors import CloakBenchError
from cloakbench.models.perceptual import BACKBONE, LINEAR, dssim, load_lpips, lpips_files
from cloakbench.running.jobs import Job


def pairs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos under more and more noise."""
    photos = smooth_photos(count, 0).pixels
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    strength = torch.linspace(0.02, 0.2, count).view(-1, 1, 1, 1)
    return (photos + strength * noise).clamp(0, 1), photos


@pytest.fixture
def lpips_folder(tiny_weights: Path) -> Path:
    return tiny_weights


def test_dssim_equals_skimages_ssim():
    changed, original = pairs()

    for a, b, value in zip(changed, original, dssim(changed, original), strict=True):
        ssim = structural_similarity(
            *(a.double().numpy(), b.double().numpy()),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(value) == pytest.approx((1 - ssim) / 2, abs=1e-5)
    assert dssim(changed, original).diff().min() > 0.01  # more noise, more distance


def test_dssim_of_equal_images_is_exactly_zero_and_it_is_symmetric():
    changed, original = pairs()

    assert torch.equal(dssim(original, original), torch.zeros(3))
    torch.testing.assert_close(dssim(changed, original), dssim(original, changed))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_dssims_gradient_is_finite_even_on_flat_and_equal_images(value):
    flat = torch.full((1, 3, 32, 32), value)
    pixels = flat.clone().requires_grad_(True)
    dssim(pixels, flat).sum().backward()

    assert torch.isfinite(pixels.grad).all()


def test_dssims_gradient_is_that_of_finite_differences():
    changed, original = (pixels[:1, :, :12, :12].double() for pixels in pairs())

    assert torch.autograd.gradcheck(lambda x: dssim(x, original), changed.requires_grad_(True))


def numpy_lpips(changed: np.ndarray, original: np.ndarray, folder: Path) -> float:
    """LPIPS of two images (3, h, w) in [0, 1], written down layer by layer."""
    backbone, linear = torch.load(folder / BACKBONE), torch.load(folder / LINEAR)

    def features(image: np.ndarray) -> list[np.ndarray]:
        shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        x = (2 * image - 1 - np.reshape(shift, (3, 1, 1))) / np.reshape(scale, (3, 1, 1))
        found, layer = [], 0
        for block, depth in enumerate((2, 2, 3, 3, 3)):
            if block:
                height, width = x.shape[1] // 2, x.shape[2] // 2
                x = x[:, : 2 * height, : 2 * width]
                x = x.reshape(len(x), height, 2, width, 2).max((2, 4))
            for _ in range(depth):
                weight = backbone[f"features.{layer}.weight"].double().numpy()
                bias = backbone[f"features.{layer}.bias"].double().numpy()
                around = np.lib.stride_tricks.sliding_window_view(
                    np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2)
                )
                x = np.tensordot(weight, around, ((1, 2, 3), (0, 3, 4)))
                x = np.maximum(x + bias[:, None, None], 0)
                layer += 2
            layer += 1
            found.append(x / (np.sqrt((x**2).sum(0)) + 1e-10))
        return found

    total = 0.0
    for index, (a, b) in enumerate(zip(features(changed), features(original), strict=True)):
        weight = linear[f"lin{index}.model.1.weight"].double().numpy()[0]
        total += ((a - b) ** 2 * weight).sum(0).mean()
    return total


def test_lpips_equals_its_formula_written_in_numpy(lpips_folder):
    changed, original = (pixels[:1, :, :16, :26] for pixels in pairs())
    values = load_lpips("cpu")(changed, original)

    for a, b, value in zip(changed, original, values, strict=True):
        expected = numpy_lpips(a.double().numpy(), b.double().numpy(), lpips_folder)
        assert float(value) == pytest.approx(expected, rel=1e-4)


def test_lpips_is_symmetric_zero_for_equals_and_differentiable(lpips_folder):
    lpips = load_lpips("cpu")
    changed, original = (pixels[..., :32, :32] for pixels in pairs(2))
    pixels = changed.clone().requires_grad_(True)
    lpips(pixels, original).sum().backward()

    assert torch.equal(lpips(original, original), torch.zeros(2))
    torch.testing.assert_close(lpips(changed, original), lpips(original, changed))
    assert torch.isfinite(pixels.grad).all()
    assert pixels.grad.abs().max() > 0


def test_loading_lpips_draws_nothing_and_its_weights_are_frozen(lpips_folder):
    before = torch.get_rng_state()
    pixels = torch.full((1, 3, 32, 32), 0.5)
    distance = load_lpips("cpu")(pixels, pixels)

    assert torch.equal(torch.get_rng_state(), before)
    assert not distance.requires_grad


@pytest.mark.parametrize("missing", [BACKBONE, LINEAR])
def test_a_missing_weight_file_is_named_with_its_place_and_source(
    missing, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "lpips").mkdir()
    for name in {BACKBONE, LINEAR} - {missing}:
        (tmp_path / name).symlink_to(tiny_weights / name)

    with pytest.raises(CloakBenchError) as caught:
        PerceptualDescent(perceptual="lpips").check()

    line = str(caught.value)
    assert "\n" not in line
    for part in (missing, str(tmp_path), "https://", "set perceptual to dssim"):
        assert part in line
    PerceptualDescent(perceptual="dssim").check()


def test_complete_weights_pass_the_check(lpips_folder):
    assert lpips_files() == [lpips_folder / BACKBONE, lpips_folder / LINEAR]
    PerceptualDescent(perceptual="lpips").check()


@pytest.mark.parametrize("name", [BACKBONE, LINEAR])
@pytest.mark.parametrize("content", [b"<html>", b"PK\x03\x04 and then nothing", None])
def test_a_damaged_or_foreign_weight_file_is_one_line(
    name, content, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "lpips").mkdir()
    for other in {BACKBONE, LINEAR} - {name}:
        (tmp_path / other).symlink_to(tiny_weights / other)
    if content is None:
        torch.save({"other": torch.zeros(1)}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(CloakBenchError, match=rf"{name}: not .*Get .* from https://") as caught:
        load_lpips("cpu")
    assert "\n" not in str(caught.value)


def test_the_hinge_costs_nothing_up_to_its_bound():
    method = PerceptualDescent(perceptual_bound=0.1, perceptual_weight=5)

    costs = method.hinge(torch.tensor([0.0, 0.05, 0.1, 0.3]))

    torch.testing.assert_close(costs, torch.tensor([0.0, 0.0, 0.0, 1.0]))


def towards_white(steps: int, **settings: float) -> torch.Tensor:
    """Descends from a smooth photo on its squared distance to white."""
    method = PerceptualDescent(
        steps=steps, learning_rate=0.01, perceptual="dssim", **{"perceptual_weight": 0, **settings}
    )
    photo = smooth_photos(2, 3).pixels
    return method.descend(
        photo,
        photo,
        lambda pixels, _: (1 - pixels).square().flatten(1).mean(1),
        Job(0),
        rate=lambda step: 0.01,
    )


def test_descent_equals_adam_written_by_hand():
    photo = smooth_photos(2, 3).pixels.double().numpy()
    x, m, v = photo.copy(), np.zeros_like(photo), np.zeros_like(photo)
    for step in range(1, 6):
        gradient = 2 * (x - 1) / photo[0].size
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x -= 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        x = x.clip(0, 1)

    np.testing.assert_allclose(towards_white(5).numpy(), x, atol=2e-5)


def test_under_the_bound_the_hinge_changes_nothing_and_beyond_it_holds():
    photo = smooth_photos(2, 3).pixels
    free = towards_white(40)
    loose = towards_white(40, perceptual_weight=100, perceptual_bound=1)
    tight = towards_white(40, perceptual_weight=100, perceptual_bound=0.002)

    assert torch.equal(loose, free)
    assert (dssim(free, photo) > 0.01).all()
    assert (dssim(tight, photo) < 0.5 * dssim(free, photo)).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 3])
def test_batches_change_no_result(count, batch_size):
    photos = smooth_photos(3, 3).pixels

    def descend(pixels: torch.Tensor, batch_size: int) -> torch.Tensor:
        method = PerceptualDescent(
            steps=5, perceptual="dssim", perceptual_bound=0.0, batch_size=batch_size
        )
        start = (pixels + 0.1 * pixels.flip(-1)).clamp(0, 1)
        return method.descend(
            start,
            pixels,
            lambda changed, part: (changed - start[part] ** 2).square().flatten(1).mean(1),
            Job(0),
            rate=lambda step: 0.01,
        )

    together = descend(photos[:count], batch_size)
    apart = torch.cat([descend(photo[None], 1) for photo in photos[:count]])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
