"""The diffusion purifications: right ladder, right noise, right windows, and weights on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Killed, MortalJob, smooth_photos, tiny_spec
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import resized
from cloakbench.files.weights import find_network
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.models.vae import round_trip
from cloakbench.purify import purifiers
from cloakbench.purify.ddspure import matching_depth
from cloakbench.purify.denoise import (
    Denoiser,
    PixelDenoiser,
    run_resized,
    run_tiled,
    run_windows,
    windows,
)
from cloakbench.running.jobs import Job

PIXELS = ("ddspure", "diffpure", "gridpure")
SIDE = 32
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
"""The signal's share of the variance after each step of the linear ladder, by hand."""


class Oracle:
    """Predicts the exact noise of images whose clean version, in [-1, 1], it knows."""

    def __init__(self, clean: Tensor, ladder: DDPMScheduler) -> None:
        self.clean = clean
        self.ladder = ladder
        self.steps: list[int] = []

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        self.steps.append(step)
        abar = self.ladder.alphas_cumprod[step]
        return (noisy - abar.sqrt() * self.clean) / (1 - abar).sqrt()


def oracle(clean: Tensor, side: int = SIDE) -> PixelDenoiser:
    """A denoiser that knows images (m, 3, side, side) in [0, 1]."""
    ladder = DDPMScheduler()
    return PixelDenoiser(Oracle(2 * clean - 1, ladder), ladder, side)


def nine_windows(pixels: Tensor) -> Tensor:
    """The 32 px windows of 64 px photos at a stride of 16 px, (n, 9, 3, 32, 32)."""
    cut = [pixels[..., y : y + 32, x : x + 32] for y in (0, 16, 32) for x in (0, 16, 32)]
    return torch.stack(cut, dim=1)


def four_corners(pixels: Tensor) -> Tensor:
    """The corners of 64 px photos as one 32 px image, (n, 1, 3, 32, 32)."""
    top = torch.cat([pixels[..., :16, :16], pixels[..., :16, 48:]], dim=-1)
    bottom = torch.cat([pixels[..., 48:, :16], pixels[..., 48:, 48:]], dim=-1)
    return torch.cat([top, bottom], dim=-2)[:, None]


def build(name: str, **settings: Any) -> Any:
    return purifiers.build(tiny_spec(purifiers, name, **settings))


def never() -> StableDiffusion:
    raise AssertionError("a purifier with weights of its own has loaded the model")


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return smooth_photos(2, 3).pixels


@pytest.fixture(scope="module")
def spoilt(photos: Tensor) -> Tensor:
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(9))
    return (photos + 0.05 * noise).clamp(0, 1)


# The ladder


@pytest.mark.parametrize("depth", [1, 23, 150, 1000])
def test_noise_at_a_depth_has_the_variance_of_the_true_ladder(depth: int) -> None:
    network = oracle(torch.zeros(1))
    grey = torch.full((4, 3, 96, 96), 0.6)
    noisy = network.noised(grey, depth, Job(0).rng)

    kept, lost = ABAR[depth - 1], 1 - ABAR[depth - 1]
    deviation = 0.6 * kept**0.5 - noisy.mean().item()
    assert abs(deviation) < 4 * (lost / grey.numel()) ** 0.5
    assert noisy.var().item() == pytest.approx(lost, rel=0.03)


def test_noise_differs_between_photos_and_depends_on_neither_their_number_nor_the_job() -> None:
    network = oracle(torch.zeros(1))
    grey = torch.full((3, 3, 8, 8), 0.5)
    noisy = network.noised(grey, 100, Job(0).rng)

    assert torch.equal(network.noised(grey[:1], 100, Job(0).rng), noisy[:1])
    assert not torch.equal(noisy[0], noisy[1])
    assert not torch.equal(network.noised(grey, 100, Job(1).rng), noisy)


def test_a_depth_beyond_the_ladder_is_refused() -> None:
    ladder = DDPMScheduler(num_train_timesteps=100)
    network = PixelDenoiser(Oracle(torch.zeros(1), ladder), ladder, SIDE)

    with pytest.raises(CloakBenchError, match=r"depth = 101: the model's ladder has 100 steps"):
        network.noised(torch.zeros(1, 3, 8, 8), 101, Job(0).rng)


def test_the_way_back_takes_every_step_down_to_zero(photos: Tensor) -> None:
    network = oracle(resized(photos, (SIDE, SIDE)))
    build("diffpure", depth=150).denoised(photos, network, Job(0))

    assert network.predict.steps == list(range(149, -1, -1))


def test_the_papers_baselines_walk_as_its_scripts_did(photos: Tensor, spoilt: Tensor) -> None:
    """On the ladder of 1000 those of 250 whose index they kept, down to the last, which they leave
    out; in windows, but for DDSPure, and without one of corners.
    """
    ladder = [round(index * 999 / 249) for index in range(250)]
    windows, small = nine_windows(photos).flatten(0, 1), resized(photos, (SIDE, SIDE))

    def run(name: str, known: Tensor) -> tuple[Tensor, list[int]]:
        network = oracle(known)
        preset = purifiers.build({"method": name, "preset": "diffshortcut", "weights": "tiny_ddpm"})
        return preset.denoised(spoilt, network, Job(0)), network.predict.steps

    cleaned, steps = run("diffpure", windows)
    assert np.abs(np.subtract(steps, ladder[100::-1])).max() <= 1
    assert torch.allclose(cleaned, photos, atol=2e-4)
    cleaned, steps = run("ddspure", small)
    assert steps == ladder[10::-1]
    assert torch.allclose(cleaned, resized(small, (64, 64)), atol=2e-4)
    assert run("gridpure", windows)[1] == 10 * list(range(40, -1, -1))


def test_one_ancestral_step_has_the_posteriors_mean_and_variance() -> None:
    """Ho et al. 2020, eq. 7, for a known clean image."""
    step = 200
    clean, noisy = torch.full((2, 3, 64, 64), 0.3), torch.full((2, 3, 64, 64), -0.4)
    ladder = DDPMScheduler()
    network = Denoiser(Oracle(clean, ladder), ladder)

    before = network.back(noisy, step, Job(0).rng)

    beta = 1 - ABAR[step] / ABAR[step - 1]
    mean = ABAR[step - 1] ** 0.5 * beta / (1 - ABAR[step]) * 0.3
    mean -= (1 - beta) ** 0.5 * (1 - ABAR[step - 1]) / (1 - ABAR[step]) * 0.4
    variance = (1 - ABAR[step - 1]) / (1 - ABAR[step]) * beta
    assert before.mean().item() == pytest.approx(mean, abs=4 * (variance / 24576) ** 0.5)
    assert before.var().item() == pytest.approx(variance, rel=0.05)


# Purifications in pixel space, with an oracle


def test_diffpure_brings_back_what_its_model_knows(photos: Tensor, spoilt: Tensor) -> None:
    network = oracle(photos, side=64)
    cleaned = build("diffpure", depth=150).denoised(spoilt, network, Job(0))

    assert torch.allclose(cleaned, photos, atol=2e-4)


def test_diffpure_resizes_to_the_models_side_and_back(photos: Tensor, spoilt: Tensor) -> None:
    small = resized(photos, (SIDE, SIDE))
    cleaned = build("diffpure").denoised(spoilt, oracle(small), Job(0))

    assert torch.allclose(cleaned, resized(small, (64, 64)), atol=2e-4)


def test_tiled_diffpure_works_at_full_resolution(photos: Tensor, spoilt: Tensor) -> None:
    network = oracle(nine_windows(photos).flatten(0, 1))
    cleaned = build("diffpure", tiled=True).denoised(spoilt, network, Job(0))

    assert torch.allclose(cleaned, photos, atol=2e-4)


def test_ddspure_brings_back_what_its_model_knows_in_one_shot(
    photos: Tensor, spoilt: Tensor
) -> None:
    network = oracle(photos, side=64)
    cleaned = build("ddspure").denoised(spoilt, network, Job(0))

    assert network.predict.steps == [22]
    assert torch.allclose(cleaned, photos, atol=2e-4)


@pytest.mark.parametrize("levels", [1, 4, 11, 16, 64])
def test_ddspures_depth_is_where_noise_is_as_strong_as_the_budget(levels: int) -> None:
    depth = matching_depth(DDPMScheduler(), 2 * levels / 255)
    wanted = 1 / (1 + (2 * levels / 255) ** 2)

    around = np.concatenate([[1.0], ABAR])  # depth 0 is the photo itself
    assert around[depth + 1] < wanted < around[depth - 1]
    if levels == 11:
        assert depth == 23


def test_ddspure_adds_noise_of_its_budget_on_the_photos_own_scale() -> None:
    """A model that predicts no noise at all hands back the photo with the noise on it."""
    grey = torch.full((2, 3, 64, 64), 0.5)
    network = PixelDenoiser(lambda noisy, _: torch.zeros_like(noisy), DDPMScheduler(), 64)
    noisy = build("ddspure", delta="11/255").denoised(grey, network, Job(0))

    assert 255 * (noisy - grey).std().item() == pytest.approx(11, rel=0.03)


def test_gridpure_brings_back_what_its_model_knows(photos: Tensor, spoilt: Tensor) -> None:
    known = torch.cat([nine_windows(photos), four_corners(photos)], dim=1).flatten(0, 1)
    network = oracle(known)
    cleaned = build("gridpure", depth=10, passes=20, blend=0.1).denoised(spoilt, network, Job(0))

    assert network.predict.steps == 20 * list(range(9, -1, -1))
    assert torch.allclose(cleaned, photos, atol=2e-4)


@pytest.mark.parametrize(("passes", "blend"), [(1, 0.1), (3, 0.1), (2, 0.5), (2, 0.0)])
def test_gridpure_blends_in_the_photo_before_each_pass(passes: int, blend: float) -> None:
    photos = smooth_photos(1, 4).pixels
    network = oracle(torch.full((10, 3, SIDE, SIDE), 0.25))
    method = build("gridpure", passes=passes, blend=blend)
    cleaned = method.denoised(photos, network, Job(0))

    assert torch.allclose(cleaned, 0.25 + blend**passes * (photos - 0.25), atol=1e-4)


def test_gridpures_passes_draw_their_own_noise() -> None:
    seen = []

    def predict(noisy: Tensor, _: int) -> Tensor:
        seen.append(noisy)
        return torch.zeros_like(noisy)

    network = PixelDenoiser(predict, DDPMScheduler(), 64)
    grey = torch.full((1, 3, 64, 64), 0.5)
    build("gridpure", passes=2, blend=0.99).denoised(grey, network, Job(0))

    noise = [(noisy[0] - noisy[0].mean()).flatten() for noisy in seen]
    assert torch.corrcoef(torch.stack(noise))[0, 1].abs() < 0.1


# Windows


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(512, 512, 256), (128, 128, 64), (49, 66, 32), (32, 97, 32)]
)
def test_windows_cover_every_pixel(height: int, width: int, side: int, corners: bool) -> None:
    count = torch.zeros(height, width)
    for rows, columns in windows(height, width, side, corners=corners):
        assert len(rows.unique()) == len(columns.unique()) == side
        count[rows, columns] += 1

    assert count.min() >= 1
    ends = count[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(ends, torch.full((4,), 1.0 + corners))


def test_a_512_px_photo_has_nine_windows_of_256_px_and_one_of_its_corners() -> None:
    places = windows(512, 512, 256, corners=True)

    starts = {(int(rows[0]), int(columns[0])) for rows, columns in places[:-1]}
    assert starts == {(y, x) for y in (0, 128, 256) for x in (0, 128, 256)}
    assert len(places) == 10
    assert places[-1][1].tolist() == [*range(128), *range(384, 512)]


def test_the_model_sees_the_windows_and_the_composite_in_its_own_range(photos: Tensor) -> None:
    seen = []

    def run(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    assert torch.allclose(run_windows(photos, SIDE, run, corners=True), photos, atol=1e-6)
    expected = torch.cat([nine_windows(photos), four_corners(photos)], dim=1).flatten(0, 1)
    assert torch.allclose(seen[0], 2 * expected - 1, atol=1e-6)


def test_where_windows_overlap_their_mean_counts() -> None:
    def numbered(images: Tensor) -> Tensor:
        """Window k of a photo becomes k / 10."""
        values = torch.arange(len(images)) / 10
        return (2 * values - 1)[:, None, None, None].expand_as(images)

    merged = run_windows(torch.zeros(1, 3, 64, 64), SIDE, numbered)[0, 0]

    total, count = np.zeros((64, 64)), np.zeros((64, 64))
    for k, (y, x) in enumerate([(y, x) for y in (0, 16, 32) for x in (0, 16, 32)]):
        total[y : y + 32, x : x + 32] += k / 10
        count[y : y + 32, x : x + 32] += 1
    np.testing.assert_allclose(merged, total / count, atol=1e-6)


@pytest.mark.parametrize("run", [run_resized, run_tiled])
def test_a_photo_smaller_than_the_model_keeps_its_size(
    run: Callable[..., Tensor], photos: Tensor
) -> None:
    kept = run(photos, 96, lambda images: images)

    assert kept.shape == photos.shape
    assert (kept - photos).abs().mean() < 0.01


# Weights


@pytest.mark.parametrize("name", PIXELS)
def test_a_ddpm_folder_loads(name: str, tiny_weights: Path, photos: Tensor) -> None:
    purifier = build(name)
    purifier.check()

    assert purifier.clean(photos, Job(0)).shape == photos.shape


def test_loaded_networks_predict_what_diffusers_predicts(tiny_weights: Path) -> None:
    noisy = torch.randn(11, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    loaded = PixelDenoiser.load("tiny_ddpm", "cpu")
    unet = DDPMPipeline.from_pretrained(tiny_weights / "tiny_ddpm").unet
    with torch.no_grad():
        expected = unet(noisy, 7).sample

    assert loaded.side == SIDE
    assert torch.allclose(loaded.predict(noisy, 7), expected, atol=1e-5)


def test_the_hubs_old_layout_of_one_folder_loads_too(tiny_weights: Path, tmp_path: Path) -> None:
    """google/ddpm-ema-celebahq-256 keeps everything side by side, with weights in a .bin file."""
    folder = tiny_weights / "tiny_ddpm" / "unet"
    UNet2DModel.from_pretrained(folder).save_pretrained(tmp_path, safe_serialization=False)
    DDPMScheduler(beta_end=0.01).save_pretrained(tmp_path)
    loaded = PixelDenoiser.load(str(tmp_path), "cpu")

    assert list(tmp_path.glob("*.bin"))
    assert loaded.scheduler.config.beta_end == 0.01


def cached(cache: Path, repository: str, model: Path) -> None:
    """Put a model into a hub's cache, as `hf download` does."""
    entry = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(model, entry / "snapshots" / "abc")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("abc")


def test_a_hub_id_is_found_in_the_hubs_cache_and_never_downloaded(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    method = build("diffpure", weights="somebody/ddpm")

    with pytest.raises(CloakBenchError, match=r"not in the hub's cache. Run `hf download someb"):
        method.check()
    cached(tmp_path, "somebody/ddpm", tiny_weights / "tiny_ddpm")
    method.check()
    assert PixelDenoiser.load("somebody/ddpm", "cpu").side == SIDE


def broken(tiny_weights: Path, folder: Path, damage: str) -> None:
    """A copy of the tiny DDPM with something wrong."""
    shutil.copytree(tiny_weights / "tiny_ddpm", folder)
    config = folder / "unet" / "config.json"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    match damage:
        case "no config":
            config.unlink()
        case "not JSON":
            config.write_text("<html>")
        case "no weights":
            weights.unlink()
        case "conditional":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 4}))
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "incomplete":
            from safetensors.torch import load_file, save_file

            kept = load_file(weights)
            del kept["conv_in.weight"]
            save_file(kept, weights)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no config", "no UNet2DModel in diffusers' format"),
        ("not JSON", "config.json is missing or broken"),
        ("no weights", "no weights beside its config.json"),
    ],
)
def test_a_broken_folder_is_named_in_one_line_while_planning(
    damage: str, message: str, tiny_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ddpm"
    broken(tiny_weights, folder, damage)

    with pytest.raises(CloakBenchError, match=message) as caught:
        build("gridpure", weights=str(folder)).check()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "incomplete", "conditional"])
def test_weights_that_do_not_fit_are_named_in_one_line(
    damage: str, tiny_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ddpm"
    broken(tiny_weights, folder, damage)

    with pytest.raises(CloakBenchError) as caught:
        PixelDenoiser.load(str(folder), "cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*PIXELS, "vae_roundtrip"])
def test_a_missing_folder_is_one_line_while_planning(name: str) -> None:
    with pytest.raises(CloakBenchError, match=r"^no/such/folder: no such folder .*\.$"):
        build(name, weights="no/such/folder").check()


def test_a_model_of_another_kind_is_named(tiny_model: ModelSpec) -> None:
    with pytest.raises(CloakBenchError, match="of class UNet2DConditionModel, not UNet2DModel"):
        build("diffpure", weights=tiny_model.path).check()
    with pytest.raises(CloakBenchError, match="of class UNet2DConditionModel, not AutoencoderKL"):
        build("vae_roundtrip", weights=f"{tiny_model.path}/unet").check()


# Latents


def latents_of(model: StableDiffusion, photos: Tensor) -> Tensor:
    return model.mode(model.posterior_once(photos))


class FakeUNet:
    """Runs a function of noisy latents, step and text where a U-Net is expected."""

    dtype = torch.float32

    def __init__(self, predict: Callable[[Tensor, int, Tensor], Tensor]) -> None:
        self.predict = predict
        self.calls: list[tuple[int, Tensor]] = []

    def parameters(self) -> tuple[()]:
        return ()

    def __call__(self, noisy: Tensor, step: int, text: Tensor) -> Any:
        self.calls.append((step, text))
        return type("Output", (), {"sample": self.predict(noisy, step, text)})


def test_latent_diffpure_at_depth_zero_is_the_vaes_round_trip(
    diffusion: StableDiffusion, photos: Tensor
) -> None:
    cleaned = build("latent_diffpure", depth=0).clean(photos, diffusion, Job(0))

    assert torch.equal(cleaned, diffusion.decode(latents_of(diffusion, photos)))
    assert torch.allclose(cleaned, round_trip(diffusion.vae, photos), atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_latent_diffpure_brings_back_what_its_model_knows(
    prediction: str,
    tiny_model: ModelSpec,
    tiny_v_model: ModelSpec,
    photos: Tensor,
    spoilt: Tensor,
) -> None:
    model = load_model(tiny_model if prediction == "epsilon" else tiny_v_model)
    known = 3 * latents_of(model, photos)  # beyond [-1, 1]: latents must not be clipped
    exact = Oracle(known, model.scheduler)

    def predict(noisy: Tensor, step: int, _: Tensor) -> Tensor:
        noise = exact(noisy, step)
        abar = model.scheduler.alphas_cumprod[step]
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * known
        return noise if prediction == "epsilon" else velocity

    model.unet = FakeUNet(predict)  # type: ignore[assignment]
    cleaned = build("latent_diffpure", depth=300, prompt="").clean(spoilt, model, Job(0))

    assert exact.steps == list(range(299, -1, -1))
    assert torch.allclose(cleaned, model.decode(known), atol=1e-3)


def test_guidance_goes_from_the_empty_prompt_towards_the_prompt(
    diffusion: StableDiffusion,
) -> None:
    fake = FakeUNet(lambda noisy, step, text: noisy + text.mean())
    diffusion.unet = fake  # type: ignore[assignment]
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    method = build("latent_diffpure", prompt="a photo", guidance=7.5)
    output = method._denoiser(diffusion).predict(noisy, 5)

    empty, full = diffusion.embed(["", "a photo"]).embeddings
    expected = empty.mean() + 7.5 * (full.mean() - empty.mean())
    assert torch.allclose(output, noisy + expected, atol=1e-4)
    assert len(fake.calls) == 2


@pytest.mark.parametrize("settings", [{"prompt": ""}, {"guidance": 1.0, "prompt": "a photo"}])
def test_without_prompt_or_guidance_the_network_runs_once_a_step(
    settings: dict[str, Any], diffusion: StableDiffusion, photos: Tensor
) -> None:
    fake = FakeUNet(lambda noisy, step, text: torch.zeros_like(noisy))
    diffusion.unet = fake  # type: ignore[assignment]
    build("latent_diffpure", depth=2, **settings).clean(photos, diffusion, Job(0))

    assert [step for step, _ in fake.calls] == [1, 0]
    expected = diffusion.embed([settings["prompt"]]).embeddings[0]
    assert torch.allclose(fake.calls[0][1][0], expected, atol=1e-5)


def test_a_second_vae_is_used_instead_of_the_models_own(
    tiny_model: ModelSpec, photos: Tensor, tmp_path: Path
) -> None:
    own = AutoencoderKL.from_pretrained(tiny_model.path, subfolder="vae")
    torch.nn.init.zeros_(own.decoder.conv_out.weight)
    torch.nn.init.constant_(own.decoder.conv_out.bias, 0.5)
    own.save_pretrained(tmp_path / "second")
    method = build("vae_roundtrip", weights=str(tmp_path / "second"))
    method.check()

    assert method.uses == {"gpu"}
    assert torch.equal(method.apply(photos, never, Job(0)), torch.full_like(photos, 0.75))


def test_the_models_own_vae_is_used_where_no_other_is_named(
    diffusion: StableDiffusion, photos: Tensor
) -> None:
    method = build("vae_roundtrip", weights=None)
    cut = photos[..., :49, :61]

    assert method.uses == {"model"}
    cleaned = method.apply(photos, lambda: diffusion, Job(0))
    expected = diffusion.decode(latents_of(diffusion, photos))
    assert torch.allclose(cleaned, expected, atol=1e-5)
    assert method.apply(cut, lambda: diffusion, Job(0)).shape == cut.shape


def test_a_pipelines_folder_stands_for_its_part(tiny_model: ModelSpec) -> None:
    assert find_network(tiny_model.path, "vae", "AutoencoderKL") == Path(tiny_model.path) / "vae"


# Noisy upscaling


def test_noisy_upscaling_is_noising_then_super_resolution(photos: Tensor) -> None:
    noisy = purifiers.build({"method": "noising", "sigma": 0.1}).clean(photos, Job(0))
    expected = build("superres").clean(noisy.clamp(0, 1), Job(0))

    assert torch.equal(build("noisy_upscaling").clean(photos, Job(0)), expected)


# Resuming


@pytest.mark.parametrize("name", ["diffpure", "gridpure"])
def test_a_job_killed_at_any_step_resumes_bit_for_bit(
    name: str, tiny_weights: Path, photos: Tensor, tmp_path: Path
) -> None:
    method = build(name)
    whole = MortalJob(2)
    expected = method.clean(photos, whole)

    for lives in range(1, len(whole.seen)):
        scratch = tmp_path / str(lives)
        with pytest.raises(Killed):
            method.clean(photos, MortalJob(2, scratch=scratch, lives=lives))
        resumed = method.clean(photos, MortalJob(2, scratch=scratch))
        assert torch.equal(resumed, expected)


# Training


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One identity with four smooth pictures of 128 px."""
    pytest.importorskip("anny", reason='captions need anny: pip install "cloakbench[synth]"')
    from cloakbench.files.images import save_photos

    folder = tmp_path_factory.mktemp("portraits") / "person_000000"
    folder.mkdir()
    photos = smooth_photos(4, 8, 128)
    save_photos(photos, folder)
    record = {"person": {}, "portraits": {f"{name}.png": {} for name in photos.names}}
    (folder / "attributes.json").write_text(json.dumps(record))
    return folder.parent


def test_half_of_a_batch_is_whole_and_half_is_windows() -> None:
    from cloakbench.miniature.pretrain.ddpm import whole_or_window

    ramp = torch.linspace(0, 1, 128).expand(6, 3, 128, 128)
    batch = whole_or_window(ramp, torch.Generator().manual_seed(0))

    assert batch.shape == (6, 3, 64, 64)
    span = batch[..., -1].amax((1, 2)) - batch[..., 0].amin((1, 2))
    assert torch.allclose(span[:3], torch.ones(3), atol=0.02)
    assert torch.allclose(span[3:], torch.full((3,), 63 / 127), atol=1e-5)


def test_the_ddpm_trains_resumes_exports_and_loads(
    portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloakbench.miniature.pretrain import training as module
    from cloakbench.miniature.pretrain.export import save_ddpm
    from cloakbench.miniature.pretrain.training import Pretraining

    def train(folder: str, lives: float) -> Pretraining:
        training = Pretraining(tmp_path / folder, portraits, report=lambda _: None)
        monkeypatch.setattr(
            module,
            "Job",
            lambda seed, device, scratch, _: MortalJob(seed, device, scratch, lives=lives),
        )
        torch.manual_seed(0)  # untrained weights come from the global generator
        training.ddpm(3, 2, 1e-3)
        return training

    straight = train("straight", float("inf"))
    with pytest.raises(Killed):
        train("killed", 2)
    resumed = train("killed", float("inf"))
    for name, value in straight.trained_ddpm().state_dict().items():
        assert torch.equal(value, resumed.trained_ddpm().state_dict()[name]), name

    save_ddpm(straight, tmp_path / "ddpm")
    assert sum(p.stat().st_size for p in (tmp_path / "ddpm").rglob("*.*")) < 4_500_000
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "ddpm", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert PixelDenoiser.load(str(tmp_path / "ddpm"), "cpu").side == 64
