"""The miniature's U-Net, and its training data: latents of clean and degraded portraits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Generator, Tensor
from tqdm import tqdm

from cloakbench.miniature.pretrain.degrade import (
    clean_caption,
    degrade,
    degraded_caption,
    draw_degradation,
)

if TYPE_CHECKING:
    from cloakbench.miniature.pretrain.portraits import Portraits

DEGRADED_SHARE = 0.15
EMPTY_SHARE = 0.1  # captions left out, for classifier-free guidance
SNR_CAP = 5.0  # min-SNR weighting, Hang et al. 2023; pre-training only


def build_unet(channels: tuple[int, ...], text_width: int) -> UNet2DConditionModel:
    """An untrained U-Net of latents of 16 px, under text embeddings of a width."""
    plain = len(channels) - 2
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",) * plain,
        up_block_types=("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text_width,
        attention_head_dim=tuple(width // 32 for width in channels),
        norm_num_groups=16,
    )


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class LatentPortraits:
    """Posteriors of all portraits: as they are, mirrored, and one degraded copy.

    mean, std: float16, (3, n, 4, side, side). kinds: what each degraded copy suffers from.
    """

    mean: Tensor
    std: Tensor
    kinds: list[str]

    def state_dict(self) -> dict:
        return {"mean": self.mean, "std": self.std, "kinds": self.kinds}

    @property
    def scaling_factor(self) -> float:
        """One over the latents' standard deviation, as diffusers defines it."""
        clean_mean, clean_std = self.mean[0].float(), self.std[0].float()
        return float((clean_mean.var() + clean_std.square().mean()).rsqrt())


@torch.no_grad()
def encode_portraits(
    vae: AutoencoderKL, portraits: Portraits, seed: int, device: str, batch_size: int = 32
) -> LatentPortraits:
    """Encode every portrait three times; the draws depend on the seed and its number only."""
    parts: list[list[Tensor]] = [[], [], []]
    kinds = []
    bar = tqdm(range(0, len(portraits), batch_size), desc="latents", disable=None, leave=False)
    for start in bar:
        indices = torch.arange(start, min(start + batch_size, len(portraits)))
        pixels = portraits.batch(indices)
        rngs = [np.random.default_rng([seed, int(index)]) for index in indices]
        drawn = [draw_degradation(rng) for rng in rngs]
        spoilt = torch.cat(
            [degrade(pixels[i : i + 1], drawn[i], rngs[i]) for i in range(len(indices))]
        )
        kinds += drawn
        for place, version in enumerate((pixels, pixels.flip(-1), spoilt)):
            posterior = vae.encode((2 * version - 1).to(device)).latent_dist
            parts[place].append(torch.stack([posterior.mean, posterior.std]).half().cpu())
    mean, std = torch.stack([torch.cat(part, dim=1) for part in parts], dim=1)
    return LatentPortraits(mean, std, kinds)


def draw_batch(
    latents: LatentPortraits, portraits: Portraits, size: int, rng: Generator
) -> tuple[Tensor, list[str]]:
    """Random unscaled latents with captions: degraded copies say so, some captions are empty."""
    words = np.random.default_rng(rng.initial_seed())
    indices = torch.randint(0, latents.mean.shape[1], (size,), generator=rng)
    draws = torch.rand((size, 3), generator=rng)
    version = torch.where(draws[:, 0] < DEGRADED_SHARE, 2, (draws[:, 1] < 0.5).long())
    captions = []
    for index, kind, empty in zip(indices, version, draws[:, 2] < EMPTY_SHARE, strict=True):
        number = int(index)
        text = portraits.caption(number, words, mirrored=bool(kind == 1))
        if kind == 2:
            text = degraded_caption(text, latents.kinds[number], words)
        else:
            text = clean_caption(text, words)
        captions.append("" if empty else text)
    mean, std = latents.mean[version, indices].float(), latents.std[version, indices].float()
    return mean + std * torch.randn(mean.shape, generator=rng), captions


def unet_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Tensor,
    text: Tensor,
    rng: Generator,
) -> Tensor:
    """Denoising loss of scaled latents with min-SNR weights."""
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    timesteps = torch.randint(0, 1000, (len(latents),), generator=rng)
    alpha = scheduler.alphas_cumprod[timesteps]
    weights = ((1 - alpha) / alpha * SNR_CAP).clamp(max=1).to(latents.device)
    timesteps = timesteps.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, text).sample.float()
    return (weights * (predicted - noise).square().flatten(1).mean(1)).mean()
