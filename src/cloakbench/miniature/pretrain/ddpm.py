"""The miniature's pixel-space DDPM: 64 px, for the purifications that diffuse pixels."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Generator, Tensor

from cloakbench.files.images import resized

SIDE = 64  # px, half of a portrait as 256 px models are half of 512 px photos


def build_ddpm(side: int = SIDE, channels: tuple[int, ...] = (32, 48, 80, 96)) -> UNet2DModel:
    """An untrained unconditional U-Net of 2.2 million weights, with attention at 8 px."""
    return UNet2DModel(
        sample_size=side,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def build_ladder() -> DDPMScheduler:
    """Ho et al.'s linear schedule, as of guided-diffusion's ImageNet model: depths compare."""
    return DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


def whole_or_window(pixels: Tensor, rng: Generator) -> Tensor:
    """Portraits at the model's side: the first half shrunk, of the others a random window.

    So the model knows what resized photos and what windows of photos look like.
    """
    side, whole = SIDE, len(pixels) // 2
    corners = torch.randint(pixels.shape[-1] - side + 1, (len(pixels), 2), generator=rng)
    cut = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(pixels[whole:], corners[whole:].tolist(), strict=True)
    ]
    return torch.cat([resized(pixels[:whole], (side, side)), torch.stack(cut)])


def ddpm_loss(unet: UNet2DModel, ladder: DDPMScheduler, pixels: Tensor, rng: Generator) -> Tensor:
    """Squared error of the predicted noise, at timesteps 1000 u^2 for uniform u.

    pixels: (n, 3, side, side) in [0, 1]. Purifications walk the low end of the ladder: half of
    the draws are below step 250.
    """
    images = (2 * pixels - 1).contiguous(memory_format=torch.channels_last)
    noise = torch.randn(pixels.shape, generator=rng).to(pixels.device)
    timesteps = (1000 * torch.rand(len(pixels), generator=rng).square()).long().to(pixels.device)
    predicted = unet(ladder.add_noise(images, noise, timesteps), timesteps).sample.float()
    return (predicted - noise).square().mean()
