"""The networks of purifications without their weights, to count what they take.

Of a network that is here its own sizes are read; of one that is not they are those of the published
one that a method names by default.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from cloakbench.errors import CloakBenchError
from cloakbench.files.weights import find_network, find_weights
from cloakbench.models import architectures
from cloakbench.models.denoiser import PixelDenoiser
from cloakbench.purify import codeformer, superres
from cloakbench.purify.align import FACE_SIDE, LANDMARKS
from cloakbench.purify.denoise import FACES

Stretch = Callable[[Callable[[int], Any], int], Any]
"""Runs what takes a number of steps with few of them, and counts all."""

DDPMS: dict[str, dict[str, Any]] = {
    FACES: {
        "sample_size": 256,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }
}
"""Unconditional DDPMs by their hub id, in the words of diffusers."""

Made = Callable[[nn.Module], Any]
"""Is told of every network that is made."""


@contextmanager
def weightless(stretch: Stretch, made: Made, device: str) -> Iterator[None]:
    """Purifications make networks without weights inside, and find one face in every photo.

    device: where those are that run on the CPU whatever a job has.
    """
    makers: dict[tuple[Any, str], Any] = {
        (codeformer, "find_weights"): _path,
        (codeformer, "load_codeformer"): partial(_codeformer, made),
        (codeformer.CodeFormer, "check"): lambda _: None,
        (codeformer.CodeFormer, "face_finder"): lambda *_: _one_face,
        (superres, "spandrel_file"): lambda name: _path(name or superres.REAL_ESRGAN),
        (superres, "load_spandrel"): partial(_enlarger, made),
        (superres, "upscaler_folder"): _path,
        (superres, "load_upscaler"): partial(_upscaler, made, stretch),
        (superres, "ncnn_files"): _ncnn_files,
        (superres, "load_ncnn"): partial(_enlarger, made, Path(superres.REAL_ESRGAN), device),
        (PixelDenoiser, "load"): partial(_ddpm, made),
    }
    said = logging.getLogger("diffusers")  # the upscaler's pipeline warns of what it does itself
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        stack.callback(said.setLevel, said.level)
        said.setLevel(logging.ERROR)
        for (place, name), maker in makers.items():
            stack.enter_context(patch.object(place, name, maker))
        yield


def _path(name: str, *_: str) -> Path:
    """Where weights are; their name if they are not here."""
    try:
        return find_weights(name, "")
    except CloakBenchError:
        return Path(name)


def _one_face(photo: Tensor) -> list[np.ndarray]:
    return [LANDMARKS * min(photo.shape[-2:]) / FACE_SIDE]


def _ncnn_files(name: str | None) -> tuple[Path, ...]:
    """None: ncnn's Real-ESRGAN x4plus has the sizes of PyTorch's."""
    if name is not None:
        raise CloakBenchError(f"superres: of ncnn's networks {name} cannot be counted.")
    return ()


def _frozen(network: nn.Module, made: Made) -> Any:
    made(network.requires_grad_(False).eval())
    return network


def _codeformer(made: Made, _: Path, device: str) -> Any:
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

    with torch.device(device):
        return _frozen(CodeFormer(), made)


def _enlarger(made: Made, path: Path, device: str) -> superres.Network:
    """A network of spandrel's: Real-ESRGAN x4plus, or one that is here."""
    from spandrel import ModelLoader
    from spandrel.architectures.ESRGAN import ESRGAN

    if path.name == superres.REAL_ESRGAN:
        with torch.device(device):
            network = ESRGAN()
    else:
        network = ModelLoader("cpu").load_from_file(path).model.to(device)
    _frozen(network, made)
    return lambda small, _: network(small.to(device)).clamp(0, 1)


def _upscaler(made: Made, stretch: Stretch, folder: Path, device: str) -> Any:
    """The pipeline in half precision, as on a GPU, which takes few of its steps and counts all."""
    from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline

    with torch.device(device), _of_type(torch.float16):
        parts = architectures.upscaler(str(folder))
        parts["scheduler"] = DDIMScheduler()  # others look at data, and take as many passes
        pipeline = StableDiffusionUpscalePipeline(**parts, low_res_scheduler=DDPMScheduler())
    for network in ("vae", "text_encoder", "unet"):
        _frozen(parts[network], made)
    pipeline.set_progress_bar_config(disable=True)

    def enlarge(prompt: str, *, num_inference_steps: int, generator: Any, **options: Any) -> Any:
        return stretch(
            lambda steps: pipeline(prompt, num_inference_steps=steps, **options),
            num_inference_steps,
        )

    return enlarge


@contextmanager
def _of_type(dtype: torch.dtype) -> Iterator[None]:
    """Weights are made of this type inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _ddpm(made: Made, name: str, device: str) -> PixelDenoiser:
    from diffusers import DDPMScheduler, UNet2DModel

    config = DDPMS.get(name) or UNet2DModel.load_config(find_network(name, "unet", "UNet2DModel"))
    with torch.device(device):
        unet = _frozen(UNet2DModel.from_config(config), made)
        learnt = unet.config.out_channels > unet.config.in_channels
    variance = "learned_range" if learnt else "fixed_small"
    return PixelDenoiser.of(unet, DDPMScheduler(variance_type=variance))
