"""CLIP's scores against an independent CLIP, from the files that users have."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import make_tiny_clip, tiny_openai_clip
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from cloakbench.errors import CloakBenchError
from cloakbench.faces import Face
from cloakbench.models.clip import Clip, concept, from_openai, load_clip
from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics import liqe
from cloakbench.score.references import IdentityReference, References

NOBODY = References(backend={}, identities={}, calibration=None)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def score(name: str, image: Image.Image, **settings: object) -> float:
    metric = metrics.build({"method": name, "preset": "tiny", **settings})
    return metric.score(Sample(image, None), NOBODY, "")


def test_openai_weights_give_openai_embeddings(tiny_weights: Path) -> None:
    reference = tiny_openai_clip()

    def adopt(network: CLIPModel) -> None:
        network.load_state_dict(from_openai(reference.state_dict()))

    clip = Clip.load("tiny_clip", adapt=adopt)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a photo", "bad face"]
    ids = clip.processor.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    ends = (ids == clip.processor.tokenizer.eos_token_id).int().argmax(1)
    with torch.no_grad():
        images = normalize(reference.visual(pixels), dim=-1)
        words = normalize(reference.encode_text(ids, ends), dim=-1)

    torch.testing.assert_close(clip.embed_pixels(pixels), images)
    torch.testing.assert_close(clip.embed_texts(texts), words)


def test_clip_iqac_is_the_difference_of_transformers_probabilities(tiny_weights: Path) -> None:
    folder, image = tiny_weights / "tiny_clip", picture(48, 40)
    network, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    prompts = ["a good photo of face", "a bad photo of face"]
    inputs = processor(text=prompts, images=image, return_tensors="pt", padding="max_length")
    with torch.no_grad():
        good, bad = network(**inputs).logits_per_image.softmax(-1)[0].tolist()

    assert score("clip_iqac", image) == pytest.approx(good - bad, abs=1e-6)
    assert score("clip_iqac", image, good="a", bad="a") == pytest.approx(0, abs=1e-6)


def test_liqe_is_the_expected_level_under_the_fine_tuned_clip(tiny_weights: Path) -> None:
    reference, image = tiny_openai_clip(), picture(70, 40)
    processor = CLIPProcessor.from_pretrained(tiny_weights / "tiny_clip")
    statistics = processor.image_processor.image_mean, processor.image_processor.image_std
    mean, std = map(torch.tensor, statistics)
    pixels = torch.from_numpy(np.asarray(image) / 255).float()
    pixels = ((pixels - mean) / std).permute(2, 0, 1)
    cut = torch.stack([pixels[:, :32, left : left + 32] for left in (0, 32)])
    texts = [
        f"a photo of a {scene} with {distortion} artifacts, which is of {level} quality"
        for level, scene, distortion in product(liqe.LEVELS, liqe.SCENES, liqe.DISTORTIONS)
    ]
    ids = processor.tokenizer(
        texts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    ends = (ids == processor.tokenizer.eos_token_id).int().argmax(1)
    with torch.no_grad():
        images = normalize(reference.visual(cut), dim=-1)
        words = normalize(reference.encode_text(ids, ends), dim=-1)
        joint = (reference.logit_scale.exp() * images @ words.T).mean(0).softmax(0)
    expected = sum(
        joint[i * 99 : (i + 1) * 99].sum().item() * (i + 1) for i in range(len(liqe.LEVELS))
    )

    assert len(texts) == 5 * 99
    assert score("liqe", image) == pytest.approx(expected, abs=1e-5)


@given(st.integers(32, 200), st.integers(32, 200))
def test_liqes_squares_lie_in_the_image_and_are_15_at_most(height: int, width: int) -> None:
    places = torch.arange(height * width).view(1, height, width).expand(3, -1, -1)
    found = liqe.squares(places, 32)
    corners = [(int(c) // width, int(c) % width) for c in found[:, 0, 0, 0]]

    possible = ((height - 32) // 32 + 1) * ((width - 32) // 32 + 1)
    assert len(found) == min(possible, 15)
    assert all(row % 32 == 0 and column % 32 == 0 for row, column in corners)
    assert corners == sorted(set(corners))


def test_q_is_the_mean_of_both_on_one_scale(tiny_weights: Path) -> None:
    image = picture(40, 40)
    halves = (score("liqe", image) - 1) / 4 * 2 - 1, score("clip_iqac", image)

    assert score("q", image) == pytest.approx(sum(halves) / 2)


def test_ims_counts_a_missing_face_as_its_least_value_and_sds_as_zero() -> None:
    anna = IdentityReference(embedding=(1.0, 0.0), photos=1, faces=1)
    references = References(backend={}, identities={"anna": anna}, calibration=None)
    sure = Face((0, 0, 9, 9), 0.9, np.array([0.6, 0.8]))
    unsure = Face((0, 0, 2, 2), 0.5, np.array([0.0, 1.0]))
    image = picture(8, 8)
    seen, unseen = Sample(image, sure, [sure, unsure]), Sample(image, None)
    ims, sds = metrics.build("ims"), metrics.build("sds")

    assert ims.score(seen, references, "anna") == pytest.approx(0.6)
    assert ims.score(unseen, references, "anna") == -1
    assert sds.score(seen, references, "anna") == pytest.approx(0.7)
    assert sds.score(unseen, references, "anna") == 0


def test_concepts_have_probabilities(tiny_weights: Path) -> None:
    [values] = concept("tiny_clip", ("a person", "noise", "a dog"), [picture(32, 32)]).tolist()

    assert math.isclose(sum(values), 1, abs_tol=1e-6)
    assert all(0 < value < 1 for value in values)


# Bad input


def test_an_image_too_small_for_liqe_is_named(tiny_weights: Path) -> None:
    with pytest.raises(CloakBenchError, match=r"'liqe' needs images of 32 px or more.* 40x31 px"):
        score("liqe", picture(40, 31))


@pytest.mark.parametrize("seed", range(3))
def test_clip_iqac_is_tanh_of_half_its_margin(tiny_weights: Path, seed: int) -> None:
    image = picture(32, 32, seed)
    margin = score("clip_margin", image)
    assert margin != 0
    assert score("clip_iqac", image) == pytest.approx(math.tanh(margin / 2), abs=1e-5)


@pytest.mark.parametrize("name", ["liqe", "clip_iqac", "clip_margin", "q"])
def test_missing_weights_are_named_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(CloakBenchError, match=r"liqe_mix\.pt|clip-vit-base-patch32"):
        metrics.build(name).check()


@pytest.mark.parametrize(
    ("name", "setting"), [("clip_prompt", "prompt"), ("clip_iqac", "bad"), ("concept", "prompts")]
)
def test_a_prompt_that_clip_does_not_read_whole_is_refused_before_any_work(
    name: str, setting: str, tiny_weights: Path
) -> None:
    """Two that differ at their ends only would score the same."""
    long = "a photo of a person, " * 30 + "noisy pattern"
    texts = ["a photo", long] if setting == "prompts" else long
    metric = metrics.build({"method": name, "preset": "tiny", setting: texts})

    with pytest.raises(CloakBenchError, match=r"noisy pattern': has \d+ tokens, and the model"):
        metric.check()
    with pytest.raises(CloakBenchError, match=r"has \d+ tokens, and the model reads"):
        load_clip(str(tiny_weights / "tiny_clip")).embed_texts([long])


def test_a_folder_that_is_no_clip_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')

    with pytest.raises(CloakBenchError, match=r"no CLIP in transformers' format"):
        metrics.build({"method": "clip_iqac", "clip": str(tmp_path)}).check()


def test_a_clip_that_lacks_weights_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    folder = make_tiny_clip(tmp_path / "partial")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(CloakBenchError, match=r"lacks 1 weights, such as visual_projection"):
        score("clip_iqac", picture(40, 40), clip=str(folder))


def test_weights_of_another_size_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    larger = make_tiny_clip(tmp_path / "larger", side=64)

    with pytest.raises(CloakBenchError, match=r"tiny_liqe\.pt: no weights of such a CLIP"):
        score("liqe", picture(80, 80), clip=str(larger))
