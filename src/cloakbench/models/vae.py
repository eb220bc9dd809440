"""Autoencoders of diffusers, by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.models.loading import load_frozen, one_line
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from torch import Tensor


@loads
def load_vae(folder: Path, device: str) -> Any:
    """A VAE with its weights in float32, frozen.

    Raises:
        CloakBenchError: its files are broken, or lack some of the weights.
    """
    from diffusers import AutoencoderKL

    with one_line(f"{folder}"):
        return load_frozen(AutoencoderKL, folder, local_files_only=True).to(device)


def padded(pixels: Tensor, vae: Any) -> Tensor:
    """Pixels with their last row and column repeated until the VAE's factor divides the sides."""
    from torch.nn.functional import pad

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    bottom, right = (-side % factor for side in pixels.shape[-2:])
    return pad(pixels, (0, right, 0, bottom), mode="replicate")


def round_trip(vae: Any, pixels: Tensor) -> Tensor:
    """What a VAE makes of pixels (n, 3, h, w) in [0, 1], through its posterior's mean.

    Edges are repeated until the VAE's factor divides the sides, and cut off again.
    """
    height, width = pixels.shape[-2:]
    scaled = 2 * padded(pixels, vae) - 1
    latents = vae.encode(scaled.to(vae.device, vae.dtype)).latent_dist.mode()
    decoded = vae.decode(latents).sample.to(pixels.dtype)
    return (decoded[..., :height, :width] / 2 + 0.5).clamp(0, 1)
