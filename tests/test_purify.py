"""What every purification promises; new files are tested unasked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Killed, MortalJob, complete, smooth_photos, tiny_spec
from PIL import Image
from scipy.ndimage import gaussian_filter

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, load_photos, to_images, to_pixels
from cloakbench.files.outputs import MANIFEST
from cloakbench.models.base import DiffusionModel
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.purify import Purifier, purifiers
from cloakbench.purify.base import build_purifier
from cloakbench.running.jobs import Job
from cloakbench.running.run import Run
from cloakbench.running.stopwatch import loads
from cloakbench.stages.purify import purify

ALL = complete(purifiers)
Load = Callable[[], DiffusionModel]


BOARD = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(33, 33)


def cloaked(resolution: int = 64) -> Photos:
    """Smooth photos under a checkerboard of 3 grey levels."""
    photos = smooth_photos(3, 7, resolution)
    levels = (photos.pixels * 255 + 3 * BOARD[:resolution, :resolution]).clamp(0, 255)
    return Photos(levels.round() / 255, ("b", "a", "c"))


def no_model() -> DiffusionModel:
    raise AssertionError("a purifier that names no model in `needs` has loaded one")


def clean(name: str, photos: Photos, load: Load = no_model, **settings: Any) -> Photos:
    return build_purifier(tiny_spec(purifiers, name, **settings)).purify(photos, load, Job(0))


@pytest.fixture
def load(tiny_model: ModelSpec, tiny_weights: Path) -> Load:
    return lambda: load_model(tiny_model)


@pytest.mark.parametrize("name", ALL)
def test_shape_names_and_range_are_kept(name, load):
    photos = cloaked()
    purified = clean(name, photos, load)

    assert purified.names == photos.names
    assert purified.pixels.shape == photos.pixels.shape
    assert purified.pixels.dtype == torch.float32
    assert purified.pixels.min() >= 0
    assert purified.pixels.max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_the_input_is_not_written_to(name, load):
    photos = cloaked()
    before = photos.pixels.clone()
    clean(name, photos, load)

    assert torch.equal(photos.pixels, before)


@pytest.mark.parametrize("name", ALL)
def test_the_same_job_gives_the_same_bytes(name, load):
    first, again = clean(name, cloaked(), load), clean(name, cloaked(), load)

    assert torch.equal(first.pixels, again.pixels)


@pytest.mark.parametrize("name", ALL)
def test_global_random_state_is_neither_used_nor_changed(name, load):
    torch.manual_seed(1)
    first = clean(name, cloaked(), load)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = clean(name, cloaked(), load)

    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_a_killed_purification_resumes_bit_for_bit(name, load, tmp_path):
    purifier = build_purifier(tiny_spec(purifiers, name))
    whole = MortalJob(5)
    expected = purifier.purify(cloaked(), load, whole)
    if len(whole.seen) < 2:
        pytest.skip(f"'{name}' has no loop to resume")

    scratch = tmp_path / "scratch"
    with pytest.raises(Killed):
        purifier.purify(cloaked(), load, MortalJob(5, scratch=scratch, lives=len(whole.seen) - 1))
    resumed = purifier.purify(cloaked(), load, MortalJob(5, scratch=scratch))
    assert torch.equal(resumed.pixels, expected.pixels)


@pytest.mark.parametrize("name", ["chain", "gaussian", "jpeg", "resize"])
def test_filters_remove_a_faint_checkerboard(name):
    photos = cloaked()
    board = BOARD[:64, :64]

    before = (photos.pixels * board).mean()
    after = (clean(name, photos).pixels * board).mean()

    assert before > 2 / 255
    assert after.abs() < 0.1 * before


@pytest.mark.parametrize("name", ALL)
def test_an_odd_rectangular_photo_keeps_its_size(name, load):
    photos = cloaked(66)
    photos = Photos(photos.pixels[:, :, :49, :], photos.names)

    assert clean(name, photos, load).pixels.shape == (3, 3, 49, 66)


def test_none_changes_nothing():
    photos = cloaked()

    assert torch.equal(clean("none", photos).pixels, photos.pixels)


def test_jpeg_equals_pillows_file_of_that_quality():
    photos = cloaked()
    purified = clean("jpeg", photos, quality=60)

    for image, result in zip(to_images(photos.pixels), to_images(purified.pixels), strict=True):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        assert file.getvalue()[:2] == b"\xff\xd8"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(result))


def test_a_second_jpeg_pass_changes_less_and_a_lower_quality_more():
    photos = cloaked()
    once = clean("jpeg", photos)
    twice = clean("jpeg", once)
    coarse = clean("jpeg", photos, quality=10)

    def change(a: Photos, b: Photos) -> float:
        return float((a.pixels - b.pixels).abs().mean())

    assert change(once, twice) < 0.5 * change(photos, once)
    assert change(photos, coarse) > change(photos, once)


@pytest.mark.parametrize("sigma", [0.7, 1.25, 3.0])
def test_gaussian_equals_scipys_filter_away_from_the_border(sigma):
    photos = cloaked()
    purified = clean("gaussian", photos, sigma=sigma)

    expected = gaussian_filter(photos.pixels.double().numpy(), (0, 0, sigma, sigma))
    inside = (..., slice(16, -16), slice(16, -16))
    np.testing.assert_allclose(purified.pixels[inside], expected[inside], atol=2e-4)


def test_resize_keeps_flat_photos_and_averages_what_is_finer_than_its_factor():
    flat = Photos(torch.full((1, 3, 64, 64), 0.4), ("flat",))
    striped = Photos(flat.pixels + 0.1 * BOARD[:64, :64], ("striped",))

    for photos in (flat, striped):
        inside = clean("resize", photos).pixels[..., 8:-8, 8:-8]
        torch.testing.assert_close(inside, flat.pixels[..., 8:-8, 8:-8], rtol=0, atol=1e-6)


def test_a_chain_equals_its_links_one_after_another():
    photos = cloaked()
    links = [{"method": "resize", "factor": 2}, {"method": "jpeg", "quality": 50}]
    by_hand = photos
    for link in links:
        by_hand = build_purifier(link).purify(by_hand, no_model, Job(0))

    chained = build_purifier({"method": "chain", "steps": links}).purify(photos, no_model, Job(0))
    listed = build_purifier(links).purify(photos, no_model, Job(0))
    backwards = build_purifier(links[::-1]).purify(photos, no_model, Job(0))

    assert torch.equal(chained.pixels, by_hand.pixels)
    assert torch.equal(listed.pixels, by_hand.pixels)
    assert not torch.equal(backwards.pixels, by_hand.pixels)


def test_a_chain_keeps_nothing_on_a_links_device(monkeypatch):
    class OnDevice(torch.Tensor):
        """Pretends to be on a GPU."""

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    given = []

    def clean(link, pixels, job):
        given.append(pixels)
        return torch.nn.Parameter(pixels).as_subclass(OnDevice)

    monkeypatch.setattr(purifiers["none"], "clean", clean)

    build_purifier(["none", "none", "none"]).purify(cloaked(), no_model, Job(0))

    assert [type(pixels) for pixels in given] == [torch.Tensor] * 3
    assert not any(pixels.requires_grad for pixels in given)


def test_a_chains_spec_says_every_setting_of_its_links():
    purifier = build_purifier(["resize", {"method": "jpeg", "preset": "mini"}])

    assert purifier.spec()["steps"] == [
        {"method": "resize", "factor": 4},
        {"method": "jpeg", "quality": 75},
    ]


def test_a_typo_within_a_chain_is_named():
    with pytest.raises(CloakBenchError, match=r"did you mean 'jpeg'"):
        build_purifier(["resize", "jpg"])
    with pytest.raises(CloakBenchError, match=r"did you mean 'quality'"):
        build_purifier([{"method": "jpeg", "qualty": 3}])


@pytest.mark.parametrize("bad", [torch.zeros(3, 3, 64, 32), torch.full((3, 3, 64, 64), np.nan)])
def test_a_purifier_that_breaks_its_promise_is_named(bad, monkeypatch):
    monkeypatch.setattr(purifiers["none"], "clean", lambda self, pixels, job: bad)

    with pytest.raises(CloakBenchError, match=r"'none' returned .*not finite"):
        clean("none", cloaked())


def test_seconds_of_a_photo_are_without_loading(folders, tiny_model, tmp_path, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("cloakbench.running.stopwatch.time", clock)

    @loads
    def load(inner: bool = True) -> None:
        now[0] += 50
        if inner:
            loads(load)(inner=False)

    def clean(self, pixels, job):
        load()
        now[0] += 3 * len(pixels)
        return pixels

    monkeypatch.setattr(type(purifiers.build("jpeg")), "clean", clean)
    run = Run(tmp_path / "out", "anna")
    purify("jpeg", model=tiny_model, photos=folders.instance, run=run)

    said = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert said["took"] == {"seconds_per_photo": 3}


def test_the_stage_saves_what_the_purifier_returns(folders, tiny_model, tmp_path):
    purify(
        ["resize", "jpeg"],
        model=tiny_model,
        photos=folders.instance,
        run=Run(tmp_path / "o", "a"),
    )

    purifier: Purifier = build_purifier(["resize", "jpeg"])
    expected = purifier.purify(load_photos(folders.instance), no_model, Job(0))
    saved = load_photos(tmp_path / "o")
    assert saved.names == expected.names
    assert torch.equal(saved.pixels, to_pixels(to_images(expected.pixels)))
