"""What is wrong with a model's folder is told at planning, on one line; what is right is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from cloakbench.errors import CloakBenchError
from cloakbench.models.families import families, family_module
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec


@pytest.fixture
def folder(tiny_model: ModelSpec, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model.path, tmp_path / "model"))


def index(folder: Path, **changes) -> None:
    path = folder / "model_index.json"
    known = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in known.items() if value != "gone"}))


def rename_weights(folder: Path, variant: str) -> None:
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(f".{variant}.safetensors"))


def no_safetensors(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors"):
        path.rename(path.with_name("diffusion_pytorch_model.bin"))


def another_kind(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "UNet2DModel"}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json there"),
    "cut index": (
        lambda f: (f / "model_index.json").write_text("{"),
        "model_index.json is damaged",
    ),
    "another family": (
        lambda f: index(f, _class_name="FluxPipeline"),
        r"is a FluxPipeline, a family that CloakBench does not know. Known: stable_diffusion",
    ),
    "no family": (lambda f: index(f, _class_name="gone"), "a family that CloakBench does not know"),
    "no denoiser": (lambda f: index(f, unet="gone"), "names no denoiser"),
    "no vae": (lambda f: index(f, vae=[None, None]), "names no 'vae'"),
    "lost folder": (lambda f: shutil.rmtree(f / "tokenizer"), "the folder 'tokenizer' is missing"),
    "lost config": (lambda f: (f / "vae" / "config.json").unlink(), "'vae' has no config"),
    "foreign part": (another_kind, "'unet' holds a UNet2DModel, not a UNet2DConditionModel"),
    "pickles": (no_safetensors, "no safetensors weights in 'unet'"),
    "fp16 alone": (
        lambda f: rename_weights(f, "fp16"),
        r"has no weights but of a variant. Set the model's `variant` to 'fp16'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line_before_any_work(folder: Path, damage: str):
    spoil, message = DAMAGES[damage]
    spoil(folder)

    with pytest.raises(CloakBenchError, match=message) as caught:
        ModelSpec(path=str(folder)).check()

    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variant_that_is_not_there_is_told(folder: Path):
    with pytest.raises(CloakBenchError, match=r"no weights of the variant 'fp16'.* to null"):
        ModelSpec(path=str(folder), variant="fp16").check()


def test_a_variant_is_loaded_and_its_files_count_as_the_models(folder: Path):
    rename_weights(folder, "fp16")
    spec = ModelSpec(path=str(folder), resolution=64, variant="fp16")

    model = load_model(spec)

    assert model.horizon == 1000
    assert any(each.file.name.endswith(".fp16.safetensors") for each in spec.files())


def test_networks_load_without_bars_of_their_own(tiny_model: ModelSpec, capfd):
    load_model(tiny_model)

    assert capfd.readouterr() == ("", "")


def test_blocks_that_divide_by_one_return_the_same_and_pass_the_same_gradient(
    tiny_model: ModelSpec,
):
    model = load_model(tiny_model)
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    noisy, text = draw(2, 4, 8, 8), model.embed(["a photo", "a person"]).embeddings

    def through(unet: Any) -> tuple[torch.Tensor, torch.Tensor]:
        given = noisy.clone().requires_grad_()
        predicted = unet(given, 500, text).sample
        predicted.square().sum().backward()
        return predicted, given.grad

    published = UNet2DConditionModel.from_pretrained(tiny_model.path, subfolder="unet").eval()
    for ours, theirs in zip(through(model.unet), through(published), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("variable", ["CLOAKBENCH_WEIGHTS", "HOME"])
def test_a_models_own_resolution_is_read_wherever_it_is_found(
    variable: str, folder: Path, tiny_model: ModelSpec, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, str(folder.parent))
    name = f"~/{folder.name}" if variable == "HOME" else folder.name

    assert ModelSpec.at(name).resolution == tiny_model.resolution


def test_a_single_file_is_told_how_to_become_a_folder(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")

    with pytest.raises(CloakBenchError, match=r"is a single file.*from_single_file"):
        ModelSpec(path=str(path)).check()


def test_parts_that_are_not_used_may_be_missing(folder: Path):
    index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])

    ModelSpec(path=str(folder)).check()


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("StableDiffusionPipeline", "stable_diffusion"),
        ("StableDiffusionXLPipeline", None),
        ("os.path", None),
        ("", None),
        ("None", None),
    ],
)
def test_a_family_is_found_by_the_name_of_its_pipeline(pipeline: str, name: str | None):
    assert family_module(pipeline) == (name and f"cloakbench.models.families.{name}")
    assert "stable_diffusion" in families()


def test_a_model_is_asked_for_its_own_resolution(tiny_model: ModelSpec, tmp_path: Path):
    assert ModelSpec.at(tiny_model.path).resolution == 64
    assert ModelSpec.at(str(tmp_path)).resolution == 512
