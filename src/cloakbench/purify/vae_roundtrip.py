"""A round trip through a second VAE, which approximates latent projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.files.weights import WeightFile, find_folder, find_network, weights_in
from cloakbench.purify.base import Purifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.loading import Loader
    from cloakbench.running.jobs import Job

SDXL = "stabilityai/sdxl-vae"


@purifiers.register("vae_roundtrip")
class VAERoundTrip(Purifier):
    """Encodes and decodes each photo with a VAE that the protection did not see.

    An approximation of VAE-Trans, whose algorithm is not published: only the change of the VAE is
    kept. SDXL's VAE (MIT) by default, sought in the hub's cache. Without `weights` it is the
    experiment's own VAE, the one that protections are made on; `mini` is the second miniature's.
    """

    source = "after arXiv 2603.13028, VAE-Trans; an approximation (recipes 2)"
    encodes = True
    presets = {"mini": {"weights": "resources/second"}, "tiny": {"weights": None}}

    weights: str | None = Field(
        SDXL, description="folder or hub id of a VAE in diffusers' format; null: the model's own"
    )

    @property
    def has_gradient(self) -> bool:
        return True

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"model"} if self.weights is None else {"gpu"})

    def files(self) -> Iterable[WeightFile]:
        return (
            []
            if self.weights is None
            else weights_in(_vae(self.weights), find_folder(self.weights))
        )

    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        import torch

        own = self.weights is None
        there_and_back = load().round_trip if own else _second(self.weights, job.device)
        return torch.cat([there_and_back(photo).cpu() for photo in pixels.split(1)])


def _vae(name: str) -> Path:
    return find_network(name, "vae", "AutoencoderKL")


@cache
def _second(name: str, device: str) -> Callable[[Tensor], Tensor]:
    from cloakbench.models.vae import load_vae, round_trip

    return partial(round_trip, load_vae(_vae(name), device))
