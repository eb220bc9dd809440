"""Gaussian noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.purify.base import Purifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@purifiers.register("noising")
class Noising(Purifier):
    """Adds Gaussian noise, which hides a perturbation without removing it."""

    source = "Hönig et al. 2024, Robust Style Mimicry, arXiv 2406.12027 (recipes 2)"
    presets = {"paper": {}, "mini": {}, "tiny": {}}

    sigma: float = Field(0.05, gt=0, le=1, description="standard deviation, on [0, 1]")

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        import torch

        noise = [
            torch.randn(photo.shape, generator=job.rng("noise", index))
            for index, photo in enumerate(pixels)
        ]
        return pixels + self.sigma * torch.stack(noise)
