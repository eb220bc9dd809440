"""The miniature's VAE: 128 px to 16 x 16 x 4 latents, as Stable Diffusion's at a quarter."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.5


def build_vae(
    resolution: int = 128, channels: tuple[int, ...] = (16, 32, 64, 128)
) -> AutoencoderKL:
    """An untrained AutoencoderKL that halves the side three times.

    Full-resolution convolutions dominate its cost, so these are narrow.
    """
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=resolution,
    )


def face_crops(pixels: Tensor, rng: Generator) -> Tensor:
    """Crops of half the side near the middle, where the faces are: (n, 3, h / 2, w / 2)."""
    side = pixels.shape[-1]
    half, reach = side // 2, side // 8
    shifts = torch.randint(-reach, reach + 1, (len(pixels), 2), generator=rng) + side // 4
    return torch.stack(
        [
            image[:, top : top + half, left : left + half]
            for image, (top, left) in zip(pixels, shifts.tolist(), strict=True)
        ]
    )


def crop_pairs(latents: Tensor, pixels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """The same crop of latents and portraits, half the side, near the middle."""
    side, factor = latents.shape[-1], pixels.shape[-1] // latents.shape[-1]
    half, reach = side // 2, side // 8
    top, left = (torch.randint(-reach, reach + 1, (2,), generator=rng) + side // 4).tolist()

    def cropped(images: Tensor, scale: int) -> Tensor:
        rows = slice(scale * top, scale * (top + half))
        return images[:, :, rows, scale * left : scale * (left + half)]

    return cropped(latents, 1), cropped(pixels, factor)


def vae_loss(vae: AutoencoderKL, pixels: Tensor, rng: Generator) -> Tensor:
    """Error of the reconstruction of pixels (n, 3, h, w) in [0, 1], and a little KL."""
    scaled = (2 * pixels - 1).contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(scaled).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    latents = mean + torch.exp(0.5 * logvar) * noise
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return reconstruction_loss(decode(vae, latents), pixels) + KL_WEIGHT * divergence


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Unscaled latents (n, 4, h / 8, w / 8) to float32 pixels around [0, 1], not clamped."""
    return vae.decode(latents).sample.float() / 2 + 0.5


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Absolute, squared and edge error of decoded pixels. Edges are differences of neighbouring
    pixels: a face is recognised by them, and squared error alone leaves them soft.
    """
    error = 2 * (decoded - pixels)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + EDGE_WEIGHT * edges
