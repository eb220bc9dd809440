"""Gaussian noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.purify.base import DifferentiablePurifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("noising")
class Noising(DifferentiablePurifier):
    """Adds Gaussian noise, which hides a perturbation without removing it."""

    source = "Hönig et al. 2024, Robust Style Mimicry, arXiv 2406.12027 (recipes 2)"
    presets = {"paper": {}, "mini": {}, "tiny": {}}

    sigma: float = Field(0.05, gt=0, le=1, description="standard deviation, on [0, 1]")

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        return noised(pixels, self.sigma, job)


def noised(pixels: Tensor, sigma: float, job: Job) -> Tensor:
    """Pixels (n, 3, h, w) with Gaussian noise, drawn for each photo by its position."""
    import torch

    noise = [
        torch.randn(photo.shape, generator=job.rng("noise", index))
        for index, photo in enumerate(pixels)
    ]
    return pixels + sigma * torch.stack(noise).to(pixels)
