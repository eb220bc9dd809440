"""Models with random weights in their files' formats, small enough for seconds on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

RESOLUTION = 64


def make_tiny_model(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Write a Stable Diffusion model of about 100,000 random weights for 64 px images."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(_tokenizer_files(folder / "raw"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=RESOLUTION,
        )
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        encoder = CLIPTextModel(text)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


FAMILIES = {"stable_diffusion": make_tiny_model}
"""What writes a tiny model of each family, for tests/test_families.py."""


def make_tiny_ddpm(folder: Path, side: int = 32) -> Path:
    """Write an unconditional pixel-space DDPM of about 10,000 random weights."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=side,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            attention_head_dim=8,
            norm_num_groups=4,
        )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


def make_tiny_restorer(folder: Path) -> Path:
    """Write a face restorer of some hundred random weights."""
    import torch

    from cloakbench.models.restorer import Restorer, save_restorer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_restorer(Restorer(widths=(4, 4, 4), blocks=1), folder)
    return folder


def make_tiny_x4(path: Path) -> Path:
    """Write random weights of the architecture of RealESRGAN_x4plus.pth, in its format."""
    import torch
    from spandrel.architectures.ESRGAN import ESRGAN

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save({"params_ema": ESRGAN(num_filters=8, num_blocks=1).state_dict()}, path)
    return path


def make_tiny_clip(folder: Path, side: int = 32) -> Path:
    """Write a CLIP of some thousand random weights with its processor, in transformers' format."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(_tokenizer_files(folder / "raw"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(_clip_config(tokenizer, side)).save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def make_tiny_liqe(path: Path, side: int = 32) -> Path:
    """Write other random weights of a CLIP of the same sizes as OpenAI's code saves them."""
    import torch

    torch.save(tiny_openai_clip(side).state_dict(), path)
    return path


def tiny_openai_clip(side: int = 32):
    import torch
    from openai_clip import OpenAIClip

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return OpenAIClip(
            len(_words()), 77, side, patch=8, width=16, joint=8, layers=2, heads=2, hidden=32
        ).eval()


def _clip_config(tokenizer, side: int):
    from transformers import CLIPConfig

    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower | {"image_size": side, "patch_size": 8}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)


def _tokenizer_files(folder: Path) -> Path:
    """A byte-level vocabulary without merges: every letter is a token."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(_words())}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _words() -> list[str]:
    letters = [chr(code) for code in range(33, 127)]
    endings = [f"{letter}</w>" for letter in letters]
    return [*letters, *endings, "<|startoftext|>", "<|endoftext|>"]


def make_lpips(folder: Path) -> None:
    """LPIPS's two files, in their publishers' formats and sizes but drawn at random."""
    import torch

    from cloakbench.models.perceptual import BACKBONE, LINEAR

    rng = torch.Generator().manual_seed(0)
    backbone, last, layer = {}, 3, 0
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            scale = (2 / (9 * last)) ** 0.5
            weight = scale * torch.randn((width, last, 3, 3), generator=rng)
            backbone[f"features.{layer}.weight"] = weight
            backbone[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=rng)
            last, layer = width, layer + 2
        layer += 1
    backbone["classifier.0.weight"] = torch.zeros(2, 2)
    linear = {
        f"lin{index}.model.1.weight": torch.rand((1, width, 1, 1), generator=rng)
        for index, width in enumerate((64, 128, 256, 512, 512))
    }
    (folder / BACKBONE).parent.mkdir(parents=True)
    torch.save(backbone, folder / BACKBONE, _use_new_zipfile_serialization=False)
    torch.save(linear, folder / LINEAR)
