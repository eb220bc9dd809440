"""Filters and restorations: numbers by hand, and real file formats with small random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Killed, MortalJob, smooth_photos
from scipy.optimize import minimize
from test_faces import PHOTOS, RETINAFACE, needs_photos, needs_weights
from tiny import make_tiny_restorer
from torch import Tensor

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, load_photos, resized, save_photos
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.weights import find_weights
from cloakbench.models.restorer import Restorer, load_restorer, save_restorer
from cloakbench.models.spec import ModelSpec
from cloakbench.purify import purifiers
from cloakbench.purify.align import FACE_SIDE, LANDMARKS, inverse, on_faces, similarity, warped
from cloakbench.purify.base import build_purifier
from cloakbench.purify.tvm import divergence, gradient, minimise
from cloakbench.running.jobs import Job
from cloakbench.running.run import Run
from cloakbench.stages.purify import purify as purify_folder


def purify(pixels: Tensor, method: str, seed: int = 0, **settings: Any) -> Tensor:
    purifier = build_purifier({"method": method, **settings})
    names = tuple(map(str, range(len(pixels))))
    return purifier.purify(Photos(pixels, names), pytest.fail, Job(seed)).pixels


def noisy(seed: int, levels: float = 11) -> tuple[Tensor, Tensor]:
    """Smooth photos of 64 px, and the same under noise of random sign."""
    pixels = smooth_photos(2, seed, 64).pixels
    draws = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return pixels, (pixels + levels / 255 * draws.sign()).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


# Total variation


def objective(z: np.ndarray, x: np.ndarray, kept: np.ndarray, weight: float, eps: float) -> Any:
    """The value of TVM's objective at z (3, h, w) and its slope, norms rounded off below eps.

    Rounding lowers it, so that its least value is a lower bound of the true one.
    """
    misfit = kept * (z - x)
    norm = np.sqrt((misfit**2).sum() + eps**2)
    down, right = np.zeros_like(z), np.zeros_like(z)
    down[:, :-1], right[:, :, :-1] = np.diff(z, axis=1), np.diff(z, axis=2)
    length = np.sqrt((down**2 + right**2).sum(0) + eps**2)
    slope = misfit / norm
    for flow, axis in ((weight * down / length, 1), (weight * right / length, 2)):
        slope -= flow - np.roll(flow, 1, axis)
    return norm - eps + weight * (length - eps).sum(), slope


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.08])
def test_tvm_finds_the_minimum_that_another_solver_brackets(weight):
    """L-BFGS on the rounded objective bounds the minimum from below; ours is hardly above it."""
    rng = torch.Generator().manual_seed(0)
    shape = (1, 3, 9, 12)
    observed = 0.3 * torch.rand(shape, generator=rng) + torch.linspace(0, 0.6, 12)
    kept = (torch.rand((1, 1, 9, 12), generator=rng) >= 0.1).float()
    ours = minimise(observed, kept, weight, 600, Job(0))[0].double().numpy()

    x, mask = observed[0].double().numpy(), kept[0].double().numpy()
    z = x
    for eps in (1e-2, 1e-3, 1e-4):
        found = minimize(
            lambda flat, eps=eps: [
                np.ravel(part) for part in objective(flat.reshape(x.shape), x, mask, weight, eps)
            ],
            z.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-10},
        )
        z = found.x.reshape(x.shape)
    lower, upper = found.fun, objective(z, x, mask, weight, 1e-12)[0]
    reached = objective(ours, x, mask, weight, 1e-12)[0]
    assert lower - 1e-4 < reached < upper + 1e-4
    assert reached - lower < 0.02 * reached


def test_divergence_is_minus_the_gradients_transpose():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand((2, 3, 7, 5), generator=rng, dtype=torch.float64)
    field = gradient(torch.rand((2, 3, 7, 5), generator=rng, dtype=torch.float64))

    torch.testing.assert_close(
        (gradient(pixels) * field).sum(), -(pixels * divergence(field)).sum()
    )


def test_tvm_removes_noise_and_leaves_clean_photos_alone():
    clean, spoilt = noisy(3)

    assert psnr(purify(spoilt, "tvm"), clean) > psnr(spoilt, clean) + 1.5
    assert psnr(purify(clean, "tvm"), clean) > 38


def test_tvm_fills_in_dropped_pixels():
    """On a slope, the dropped pixels come back from their neighbours."""
    slope = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)

    assert (purify(slope, "tvm", drop=0.3) - slope).abs().max() < 0.03


def test_tvm_keeps_an_edge_that_all_channels_share_where_it_is():
    edge = torch.full((1, 3, 32, 32), 0.2)
    edge[..., 16:] = 0.8
    purified = purify(edge, "tvm", drop=0.0)

    assert (purified[..., 15] - 0.2).abs().max() < 0.05
    assert (purified[..., 16] - 0.8).abs().max() < 0.05


def test_tvms_published_variant_has_no_more_detail_than_64_px():
    board = 0.5 + 0.3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(64, 64).expand(1, 3, 128, 128)
    purified = purify(board, "tvm", preset="paper")

    assert purified.shape == board.shape
    assert (purified - 0.5).abs().max() < 0.02


def test_a_photo_comes_out_the_same_whatever_stands_behind_it():
    _, spoilt = noisy(4)

    for method in ("tvm", "noising"):
        alone, together = purify(spoilt[:1], method), purify(spoilt, method)[:1]
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


# Noise


def test_noising_adds_noise_of_that_deviation_and_another_seed_adds_another():
    grey = torch.full((2, 3, 64, 64), 0.5)
    noise = purify(grey, "noising", sigma=0.1) - 0.5

    assert noise.mean().abs() < 0.003
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(noise, purify(grey, "noising", seed=1, sigma=0.1) - 0.5)


# Super-resolution


def test_real_esrgans_real_weights_keep_a_smooth_photo_and_its_colours():
    ramp = torch.linspace(0.1, 0.9, 128)
    channels = [ramp.expand(128, 128), ramp[:, None].expand(128, 128), torch.full((128, 128), 0.3)]
    photo = torch.stack(channels)[None]
    purified = purify(photo, "superres", backend="ncnn")

    assert psnr(purified, photo) > 30
    assert (purified - photo).mean((0, 2, 3)).abs().max() < 0.03


def test_real_esrgan_removes_what_is_finer_than_the_small_photo():
    clean, spoilt = noisy(6)
    purified, untouched = (purify(p, "superres", backend="ncnn") for p in (spoilt, clean))

    assert psnr(purified, untouched) > psnr(spoilt, clean)


def test_a_smaller_factor_keeps_more_of_what_is_fine():
    stripes = 0.5 + 0.4 * torch.sin(torch.arange(64) * torch.pi / 3)  # 6 px wide
    photo = stripes.expand(1, 3, 64, 64)
    kept = [psnr(purify(photo, "superres", backend="ncnn", factor=f), photo) for f in (4, 2)]

    assert kept[0] < kept[1] - 3


@pytest.fixture(scope="module")
def esrgan() -> dict[str, Tensor]:
    """Small random weights of ESRGAN's architecture, the one of RealESRGAN_x4plus.pth."""
    from spandrel.architectures.ESRGAN import ESRGAN

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ESRGAN(num_filters=8, num_blocks=1).state_dict()


def write(weights: dict[str, Tensor], path: Path) -> Path:
    """In Real-ESRGAN's format, where `params_ema` holds the weights, or as safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"params_ema": weights}, path)
    return path


@pytest.mark.parametrize("name", ["small.pth", "small.safetensors"])
def test_spandrel_runs_an_esrgan_from_either_kind_of_file(name, esrgan, tmp_path):
    from spandrel.architectures.ESRGAN import ESRGAN

    photos = smooth_photos(2, 5, 64).pixels
    settings = {"backend": "spandrel", "weights": str(write(esrgan, tmp_path / name))}
    build_purifier({"method": "superres", **settings}).check()
    before = torch.get_rng_state()
    purified = purify(photos, "superres", **settings)

    network = ESRGAN(num_filters=8, num_blocks=1).eval()
    network.load_state_dict(esrgan)
    torch.set_rng_state(before)
    with torch.no_grad():
        expected = network(resized(photos, (16, 16))).clamp(0, 1)
    torch.testing.assert_close(purified, expected, rtol=0, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


def test_real_esrgans_file_is_found_by_its_name(esrgan, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    superres = build_purifier({"method": "superres", "backend": "spandrel"})
    with pytest.raises(CloakBenchError, match=r"RealESRGAN_x4plus\.pth: no such weights .*github"):
        superres.check()

    write(esrgan, tmp_path / "home" / ".cache" / "cloakbench" / "RealESRGAN_x4plus.pth")
    superres.check()


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A Stable Diffusion x4 upscaler of a few thousand random weights, as diffusers saves it."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("upscaler")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=7,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
            num_class_embeds=1000,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
        )
    StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(tiny_model.path, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(tiny_model.path, subfolder="tokenizer"),
        unet=unet,
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(),
        max_noise_level=350,
    ).save_pretrained(folder)
    return folder


def test_the_diffusers_upscaler_draws_for_each_photo_from_the_job(upscaler):
    photos = smooth_photos(2, 5, 64).pixels[:, :, :52]
    settings = {"backend": "diffusers", "weights": str(upscaler), "steps": 2}
    build_purifier({"method": "superres", **settings}).check()
    purified = purify(photos, "superres", **settings)

    assert purified.shape == photos.shape
    assert torch.equal(purify(photos[:1], "superres", **settings), purified[:1])
    for changed in ({"seed": 1}, {"noise_level": 300}, {"guidance": 1.0}, {"prompt": "noise"}):
        assert not torch.equal(purify(photos[:1], "superres", **settings, **changed), purified[:1])


def test_an_incomplete_upscaler_is_one_line_before_any_work(upscaler, tmp_path):
    (tmp_path / "model_index.json").write_text((upscaler / "model_index.json").read_text())
    with pytest.raises(CloakBenchError, match=r"has no 'unet'. Give a folder"):
        build_purifier({"method": "superres", "weights": str(tmp_path)}).check()


# Faces


def test_a_similarity_is_found_from_landmarks_and_undone():
    angle, scale = 0.3, 2.5
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform = np.hstack([turn, [[7.0], [-4.0]]])
    points = LANDMARKS @ turn.T + transform[:, 2]

    np.testing.assert_allclose(similarity(LANDMARKS, points), transform, atol=1e-9)
    np.testing.assert_allclose(similarity(points, LANDMARKS), inverse(transform), atol=1e-9)


def test_warping_follows_opencv():
    import cv2

    picture = smooth_photos(1, 2, 64).pixels
    transform = np.array([[0.8, -0.2, 10.0], [0.2, 0.8, 3.0]])
    expected = cv2.warpAffine(
        picture[0].permute(1, 2, 0).numpy(),
        transform,
        (48, 40),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )

    found = warped(picture, transform, (40, 48), outside="zeros")[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)


def faces_in(size: int) -> list[np.ndarray]:
    """Landmarks of an upright face in the middle, and of one turned that the border cuts."""
    upright = LANDMARKS * (size * 0.5 / FACE_SIDE) + size * 0.2
    turned = (LANDMARKS - 256) @ np.array([[0.9, 0.4], [-0.4, 0.9]]) * (size * 0.6 / FACE_SIDE)
    return [upright, turned + size * 0.75]


def test_an_identity_network_leaves_the_photo_as_it_was():
    photo = smooth_photos(1, 8, 128).pixels

    assert (on_faces(photo, faces_in(128), lambda face: face) - photo).abs().max() < 1 / 255


def test_the_network_sees_upright_faces_and_changes_nothing_around_them():
    photo = smooth_photos(1, 8, 128).pixels
    seen = []

    def network(face: Tensor) -> Tensor:
        seen.append(face.shape)
        return 1 - face

    upright = faces_in(128)[:1]
    changed = on_faces(photo, upright, network)
    assert seen == [(1, 3, FACE_SIDE, FACE_SIDE)]
    torch.testing.assert_close(
        changed[..., 50:60, 50:60], 1 - photo[..., 50:60, 50:60], atol=0.01, rtol=0
    )
    assert torch.equal(changed[..., :24, :], photo[..., :24, :])
    assert torch.equal(changed[..., 92:], photo[..., 92:])


@pytest.fixture(scope="module")
def codeformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of CodeFormer's architecture in its file's format, with one transformer layer
    instead of nine."""
    arches = pytest.importorskip(
        "spandrel_extra_arches.architectures.CodeFormer",
        reason="the extra `codeformer` is not there",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = arches.CodeFormer(n_layers=1).state_dict()
    return write(weights, tmp_path_factory.mktemp("codeformer") / "codeformer.pth")


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[np.ndarray]], None]:
    """Says which faces are found."""

    def found(faces: list[np.ndarray]) -> None:
        monkeypatch.setattr("cloakbench.purify.align.FaceAligner.detector_file", lambda _: Path())
        monkeypatch.setattr(
            "cloakbench.purify.align.FaceAligner.face_finder", lambda *_: lambda _photo: faces
        )

    return found


@pytest.mark.parametrize(("size", "scale"), [(320, 2.0), (1280, 1.0)])
def test_faces_are_sought_in_enlarged_photos_and_never_in_smaller_ones(size, scale, monkeypatch):
    """Landmarks are those of the photo; faces with eyes too near to one another are left out."""
    seen: list[tuple[int, int]] = []

    class Found:
        def detect_faces(self, image: Any, conf_threshold: float) -> list[np.ndarray]:
            seen.append(image.size)
            row = np.zeros(15)
            row[5:15] = [100, 100, 140, 100, 120, 120, 105, 140, 135, 140]
            turned = row.copy()
            turned[7] = 100 + 2 * scale
            return [row, turned]

    monkeypatch.setattr("cloakbench.faces.facexlib.retinaface", lambda *_: Found())
    monkeypatch.setattr("cloakbench.purify.align.FaceAligner.detector_file", lambda _: Path())

    found = build_purifier("codeformer").face_finder("cpu")(torch.rand(1, 3, size, size))

    assert seen == [(size * scale, size * scale)]
    [landmarks] = found
    np.testing.assert_allclose(landmarks[:2], np.array([[100, 100], [140, 100]]) / scale)


def test_a_restorer_is_known_by_being_a_folder(tmp_path, tiny_weights):
    copied = copytree(tiny_weights / "tiny_restorer", tmp_path / "restorer.v2")

    purifier = build_purifier({"method": "codeformer", "weights": str(copied)})

    purifier.check()
    assert purifier.has_gradient


def test_codeformers_file_runs_with_its_fidelity_on_the_faces_only(codeformer, finder):
    finder(faces_in(64)[:1])
    photos = smooth_photos(1, 8, 64).pixels
    low, high = (
        purify(photos, "codeformer", weights=str(codeformer), fidelity=w) for w in (0.0, 1.0)
    )

    assert not torch.equal(low, photos)
    assert not torch.equal(low, high)
    assert torch.equal(low[..., :12, :], photos[..., :12, :])


def test_photos_without_a_face_stay_and_the_manifest_says_how_many(
    codeformer, finder, tmp_path, monkeypatch
):
    photos = smooth_photos(3, 8, 64)
    (tmp_path / "photos").mkdir()
    save_photos(photos, tmp_path / "photos")
    finder([])
    chain = [{"method": "codeformer", "weights": str(codeformer)}, "none"]
    monkeypatch.setattr("cloakbench.running.run.Job", partial(MortalJob, lives=2))
    options = {"model": ModelSpec(path="unused", resolution=64), "photos": tmp_path / "photos"}
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")
    with pytest.raises(Killed):
        purify_folder(chain, **options, run=run)
    monkeypatch.setattr("cloakbench.running.run.Job", Job)
    purify_folder(chain, **options, run=run)

    assert torch.equal(load_photos(tmp_path / "out").pixels, photos.pixels)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["notes"] == {"photos_without_a_face": 3}, "those before the kill, too"
    assert "took" not in manifest, "nobody knows how long the killed one took"


def test_missing_or_foreign_weights_are_one_line_before_any_work(
    codeformer, esrgan, tmp_path, monkeypatch
):
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for method in ("codeformer", "codesr"):
        with pytest.raises(CloakBenchError, match=r"codeformer\.pth: no such weights .*github"):
            build_purifier(method).check()

    (tmp_path / "codeformer.pth").write_text("<!doctype html>")
    with pytest.raises(CloakBenchError, match="not a weight file"):
        build_purifier("codeformer").check()

    (tmp_path / "codeformer.pth").unlink()
    (tmp_path / "codeformer.pth").symlink_to(codeformer)
    with pytest.raises(CloakBenchError, match=r"detection_Resnet50_Final\.pth: no such weights"):
        build_purifier("codeformer").check()

    write(esrgan, tmp_path / "detection_Resnet50_Final.pth")
    build_purifier("codeformer").check()
    with pytest.raises(CloakBenchError, match="not the weights of facexlib's RetinaFace") as error:
        purify(torch.zeros(1, 3, 64, 64), "codeformer")
    assert "\n" not in str(error.value)


def test_other_networks_are_not_taken_for_codeformer_or_an_x4_upscaler(
    codeformer, esrgan, tmp_path
):
    from cloakbench.purify.codeformer import load_codeformer

    with pytest.raises(CloakBenchError, match="not CodeFormer's weights") as error:
        load_codeformer(write(esrgan, tmp_path / "a.pth"), "cpu")
    assert "\n" not in str(error.value)
    spec = {"method": "superres", "backend": "spandrel", "weights": str(codeformer)}
    with pytest.raises(CloakBenchError, match="no network that spandrel knows"):
        purify(torch.zeros(1, 3, 64, 64), **spec)


def test_without_the_extra_codeformer_says_what_to_install(codeformer, finder, monkeypatch):
    finder([])
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CloakBenchError, match=r'pip install "cloakbench\[codeformer\]"'):
        build_purifier({"method": "codeformer", "weights": str(codeformer)}).check()


def test_codesr_is_codeformer_then_superres_of_the_same_preset():
    for preset in ("paper", "mini", "tiny"):
        codesr = build_purifier({"method": "codesr", "preset": preset})
        links = [
            build_purifier({"method": m, "preset": preset}) for m in ("codeformer", "superres")
        ]
        assert list(codesr.parts) == links
        assert [set(codesr.presets), purifiers["chain"].name] == [
            {"paper", "mini", "tiny"},
            "chain",
        ]
    assert list(build_purifier("codesr").parts) == [
        build_purifier(m) for m in ("codeformer", "superres")
    ]


# The miniature's restorer


def test_a_saved_restorer_is_the_same_but_for_half_precision(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        restorer = Restorer((8, 8), 1).eval()
    save_restorer(restorer, tmp_path)
    back = load_restorer(tmp_path)
    pixels = smooth_photos(1, 1, 64).pixels

    with torch.no_grad():
        torch.testing.assert_close(back(pixels, 0.5), restorer(pixels, 0.5), rtol=0, atol=5e-3)
    assert not any(p.requires_grad for p in back.parameters())


def test_without_fidelity_only_the_deepest_features_count():
    """At w = 0 the skips are closed; at w = 1 they carry what the encoder saw."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        restorer = Restorer((8, 8), 1).eval()
        torch.nn.init.zeros_(restorer.up[0].weight)
    first, second = (smooth_photos(1, seed, 64).pixels for seed in (1, 2))

    with torch.no_grad():
        assert torch.equal(restorer(first, 0.0), restorer(second, 0.0))
        assert not torch.equal(restorer(first, 1.0), restorer(second, 1.0))
        mixed = restorer(torch.cat([first, first]), torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(mixed, torch.cat([restorer(first, w) for w in (0.0, 1.0)]))


@pytest.mark.parametrize("damage", ["config", "weights", "kind"])
def test_a_damaged_restorer_is_one_line(damage, tmp_path):
    make_tiny_restorer(tmp_path)
    match damage:
        case "config":
            (tmp_path / "config.json").unlink()
        case "weights":
            (tmp_path / "model.safetensors").write_text("version https://git-lfs")
        case "kind":
            config = json.loads((tmp_path / "config.json").read_text())
            (tmp_path / "config.json").write_text(json.dumps(config | {"kind": "ddpm"}))

    with pytest.raises(
        CloakBenchError, match=r"no restorer of the miniature|no config\.json"
    ) as error:
        purify(torch.zeros(1, 3, 64, 64), "codeformer", weights=str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(8))
def test_blind_degradations_stay_in_range_and_repeat(seed):
    from cloakbench.miniature.pretrain.restorer import degraded

    portrait = smooth_photos(1, seed, 64).pixels
    first, again = (degraded(portrait, np.random.default_rng(seed)) for _ in range(2))

    assert first.shape == portrait.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)


def test_weights_are_sought_as_a_path_then_in_the_variables_folder_then_in_the_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    for folder in ("home/.cache/cloakbench", "mine", "."):
        place = tmp_path / folder / "w.pth"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        assert find_weights("w.pth", "a shop").resolve() == place
    with pytest.raises(CloakBenchError, match=r"v\.pth: no such weights .*mine or .*a shop"):
        find_weights("v.pth", "a shop")


# Real photographs


@needs_photos
def test_filters_and_real_esrgan_work_on_a_real_photograph_at_512_px():
    photo = load_photos(PHOTOS / "set_B").pixels[:1]
    assert photo.shape[-2:] == (512, 512)

    for method, settings in {
        "gaussian": {"sigma": 1.0},
        "jpeg": {},
        "resize": {"factor": 2},
        "tvm": {"iterations": 60},
        "superres": {"backend": "ncnn"},
    }.items():
        assert psnr(purify(photo, method, **settings), photo) > 20, method


@needs_photos
@needs_weights
def test_a_real_face_is_found_and_an_identity_network_pasted_back(codeformer, monkeypatch):
    """These weights were trained with other anchors than facexlib's, for faces of 100 px."""
    from cloakbench.faces import facexlib

    retinaface = facexlib.retinaface

    def with_its_anchors(*given: Any) -> Any:
        network = retinaface(*given)
        network.cfg["min_sizes"] = [[10, 20], [32, 64], [128, 256]]
        return network

    monkeypatch.setattr(facexlib, "retinaface", with_its_anchors)
    monkeypatch.setattr("cloakbench.purify.align.DETECTION_SIDE", 256)  # so large is the photo
    settings = {"detector": str(RETINAFACE), "detector_network": "mobile0.25"}
    purifier: Any = build_purifier({"method": "codeformer", "weights": str(codeformer), **settings})
    purifier.check()
    photo = resized(load_photos(PHOTOS / "set_B").pixels[:1], (256, 256))

    [landmarks] = purifier.face_finder("cpu")(photo)
    left_eye, right_eye, _, left_mouth, right_mouth = landmarks
    assert 40 < np.linalg.norm(right_eye - left_eye) < 125
    assert left_mouth[1] > left_eye[1] + 40
    assert right_mouth[1] > right_eye[1] + 40
    pasted = on_faces(photo, [landmarks], lambda face: face)
    assert psnr(pasted, photo) > 25
