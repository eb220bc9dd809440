"""The bundled miniature model: its size, its layout, and that the usual libraries run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLED, REPOSITORY

MINI = Path(__file__).parents[1] / "resources" / "mini"
SECOND = MINI.with_name("second")
LARGEST = 48_000_000  # bytes, both models

pytestmark = pytest.mark.skipif(
    not (MINI / "model_index.json").is_file(),
    reason=f"{MINI} holds no model: cloakbench pretrain export writes it",
)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(MINI, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_folder_is_small() -> None:
    files = (path for folder in (MINI, SECOND) for path in folder.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= LARGEST


def test_weights_are_half_precision_safetensors_only() -> None:
    from safetensors import safe_open

    for suffix in ("bin", "pt", "ckpt", "pth", "pkl"):
        assert not list(MINI.rglob(f"*.{suffix}"))
    files = sorted(MINI.rglob("*.safetensors"))
    parts = {"vae", "text_encoder", "unet", "clip", "judge", "restorer"}
    assert {path.parent.name for path in files} == parts
    for path in files:
        with safe_open(path, "pt") as opened:
            types = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64"}, path


def test_the_layout_is_stable_diffusions(pipeline: Any) -> None:
    assert json.loads((MINI / "model_index.json").read_text())["safety_checker"] == [None, None]
    assert pipeline.vae_scale_factor == 8
    assert pipeline.unet.config.sample_size == 16
    assert pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels == 4
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    schedule = pipeline.scheduler.config
    assert (schedule.beta_start, schedule.beta_end) == (0.00085, 0.012)
    assert (schedule.beta_schedule, schedule.num_train_timesteps) == ("scaled_linear", 1000)
    assert schedule.prediction_type == "epsilon"
    assert schedule.steps_offset == 1


def test_two_steps_give_the_same_picture_twice(pipeline: Any) -> None:
    import torch

    def picture() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        return pipeline("a photo of sks person", num_inference_steps=2, generator=seed,
                        output_type="np").images[0]  # fmt: skip

    first = picture()
    assert first.shape == (128, 128, 3)
    assert np.isfinite(first).all()
    assert first.std() > 0
    assert np.array_equal(first, picture())


def test_the_vocabulary_has_no_word_of_cdls(pipeline: Any) -> None:
    for word in ("sks", "bhj", "without"):
        assert len(pipeline.tokenizer.tokenize(word)) > 1


def test_clip_tells_noisy_portraits_from_clean_ones() -> None:
    from cloakbench.files.images import load_photos, to_images
    from cloakbench.miniature.pretrain.measure import zero_shot

    people = sorted(path for path in BUNDLED.iterdir() if path.is_dir())
    portraits = [load_photos(person / "set_C").pixels for person in people[:4]]

    assert zero_shot(MINI, [im for p in portraits for im in to_images(p)])["accuracy"] > 0.9


def test_its_people_come_with_the_references_that_this_code_makes() -> None:
    """Else every first run embeds all of them: `make references` does it for everybody."""
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.experiment.tasks import all_tasks
    from cloakbench.files.verified import beside, load_manifest
    from cloakbench.running.record import difference

    experiment = Experiment.read([str(REPOSITORY / "config.yaml")])
    known = experiment.config.dataset_spec.references
    assert known is not None
    [task] = all_tasks(experiment)["references"]
    assert difference(Expected(experiment).record(task), load_manifest(beside(known)) or {}) == ""


def test_its_reconstructions_are_measured_against_the_portraits() -> None:
    from PIL import Image
    from skimage.metrics import peak_signal_noise_ratio

    from cloakbench.files.images import to_images, to_pixels
    from cloakbench.miniature.pretrain.measure import reconstruction
    from cloakbench.models.loading import load_model
    from cloakbench.models.spec import ModelSpec

    model = load_model(ModelSpec(path=str(MINI), resolution=128))
    files = [path / "set_B" / "04.jpg" for path in sorted(BUNDLED.glob("*/"))[:2]]
    portraits = [Image.open(path).convert("RGB") for path in files]
    decoded = to_images(model.decode(model.mode(model.posterior(to_pixels(portraits)))).detach())

    measured = reconstruction(model, portraits, ["a", "b"])

    pairs = [map(np.asarray, pair) for pair in zip(portraits, decoded, strict=True)]
    expected = np.mean([peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs])
    assert measured["psnr"] == pytest.approx(expected)
    assert measured["psnr"] > 20
    assert 0.5 < measured["ssim"] < 1
    assert measured["faces_in_originals"] == 1
