"""Write the trained networks as diffusers and transformers folders with fp16 safetensors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
)

from cloakbench.errors import CloakBenchError
from cloakbench.miniature.pretrain.clip import PIXEL_MEAN, PIXEL_STD
from cloakbench.miniature.pretrain.ddpm import build_ladder
from cloakbench.miniature.pretrain.training import Pretraining
from cloakbench.miniature.pretrain.unet import build_scheduler
from cloakbench.miniature.pretrain.vae import Adversaries
from cloakbench.models.restorer import load_restorer, save_restorer

LARGEST = 34_000_000  # bytes; all of it is part of the repository


def export(training: Pretraining, out: Path) -> int:
    """Write a complete model; judge, DDPM and restorer too, if trained. Other files in `out` stay.

    It is written beside `out` and moved in file by file, so that a model which is too large, or a
    killed export, leaves the last one as it was and a reader never meets half a file.

    Returns:
        Bytes that the model takes.

    Raises:
        CloakBenchError: a network is not trained yet, or all is larger than 34 MB.
    """
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(training, part)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > LARGEST:
            raise CloakBenchError(
                f"{out}: would take {size / 1e6:.1f} MB, at most {LARGEST / 1e6:.0f} MB fit. "
                "Make a network smaller."
            )
        for path in files:
            place = out / path.relative_to(part)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return size


def _write(training: Pretraining, folder: Path) -> None:
    vae, clip, unet = training.trained_vae(), training.trained_clip(), training.trained_unet()
    vae.register_to_config(scaling_factor=training.trained_latents().scaling_factor)
    tokenizer = training.trained_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder(clip),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler.from_config(build_scheduler().config, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_clip(clip, tokenizer, folder / "clip")
    if (training.work / "judge.pt").exists():
        save_clip(training.trained_judge(), training.judge_tokenizer(), folder / "judge")
    if (training.work / "ddpm.pt").exists():
        save_ddpm(training, folder / "ddpm")
    if (training.work / "restorer.pt").exists():
        save_restorer(training.trained_restorer(), folder / "restorer")


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a CLIP and its processor for transformers."""
    clip.half().save_pretrained(folder, safe_serialization=True)
    side = clip.config.vision_config.image_size
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_ddpm(training: Pretraining, folder: Path) -> None:
    """Write the pixel-space DDPM for diffusers' DDPMPipeline."""
    pipeline = DDPMPipeline(training.trained_ddpm().half(), build_ladder())
    pipeline.save_pretrained(folder, safe_serialization=True)


def unpack(model: Path, training: Pretraining) -> None:
    """Put an exported model's weights into the work folder, so that training goes on from them.

    The latents, the VAE's critic and the optimisers' moments are not part of a model: run `latents`
    afterwards; a critic starts anew.

    Raises:
        CloakBenchError: the folder is no exported model.
    """
    if not (model / "model_index.json").is_file():
        raise CloakBenchError(f"{model}: is no exported model. Check the path.")
    networks = {
        "vae": Adversaries(AutoencoderKL.from_pretrained(model, subfolder="vae")),
        "clip": CLIPModel.from_pretrained(model / "clip"),
        "unet": UNet2DConditionModel.from_pretrained(model, subfolder="unet"),
    }
    tokenizers = {"tokenizer": "tokenizer"}
    if (model / "judge").is_dir():
        networks["judge"] = CLIPModel.from_pretrained(model / "judge")
        tokenizers["judge"] = "judge_tokenizer"
    if (model / "ddpm").is_dir():
        networks["ddpm"] = UNet2DModel.from_pretrained(model / "ddpm", subfolder="unet")
    if (model / "restorer").is_dir():
        networks["restorer"] = load_restorer(model / "restorer")
    for name, network in networks.items():
        training.keep(name, network.float().state_dict())
    for source, place in tokenizers.items():
        CLIPTokenizer.from_pretrained(model / source).save_pretrained(training.work / place)


def text_encoder(clip: CLIPModel) -> CLIPTextModel:
    """CLIP's text tower on its own, as Stable Diffusion keeps it."""
    encoder = CLIPTextModel(clip.config.text_config)
    source = clip.text_model.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
    encoder.load_state_dict({f"{prefix}{name}": value for name, value in source.items()})
    return encoder.eval()
