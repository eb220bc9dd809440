"""A round trip through a second VAE, which approximates latent projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from cloakbench.purify.base import Purifier, purifiers
from cloakbench.weights import find_network

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job

SDXL = "stabilityai/sdxl-vae"


@purifiers.register("vae_roundtrip")
class VAERoundTrip(Purifier):
    """Encodes and decodes each photo with a VAE that the protection did not see.

    An approximation of VAE-Trans, whose algorithm is not published: only the change of the VAE is
    kept. SDXL's VAE (MIT) by default, sought in the hub's cache. Without `weights` it is the
    experiment's own VAE: all that the miniature has, and the one that its protections are made on.
    """

    source = "after arXiv 2603.13028, VAE-Trans; an approximation (recipes 2)"
    presets = {"mini": {"weights": None}, "tiny": {"weights": None}}

    weights: str | None = Field(
        SDXL, description="folder or hub id of a VAE in diffusers' format; null: the model's own"
    )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"model"} if self.weights is None else {"gpu"})

    def check(self) -> None:
        if self.weights is not None:
            find_network(self.weights, "vae", "AutoencoderKL")

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        import torch

        vae = model.vae if model is not None and self.weights is None else self._second(job.device)
        return torch.cat([round_trip(vae, photo).cpu() for photo in pixels.split(1)])

    def _second(self, device: str) -> Any:
        from diffusers import AutoencoderKL

        from cloakbench.purify.denoise import load_network

        assert self.weights is not None
        return load_network(
            AutoencoderKL, find_network(self.weights, "vae", "AutoencoderKL"), device
        )


def round_trip(vae: Any, pixels: Tensor) -> Tensor:
    """What a VAE makes of pixels (n, 3, h, w) in [0, 1], through its posterior's mean.

    Edges are repeated until the VAE's factor divides the sides, and cut off again.
    """
    import torch

    from cloakbench.diffusion import padded

    height, width = pixels.shape[-2:]
    with torch.no_grad():
        scaled = 2 * padded(pixels, vae) - 1
        latents = vae.encode(scaled.to(vae.device)).latent_dist.mode()
        decoded = vae.decode(latents).sample
    return (decoded[..., :height, :width] / 2 + 0.5).clamp(0, 1)
