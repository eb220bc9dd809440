"""Noisy Upscaling: Gaussian noise that hides a perturbation, then a network that removes both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.purify.base import purifiers
from cloakbench.purify.noising import noised
from cloakbench.purify.superres import SuperResolution

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("noisy_upscaling")
class NoisyUpscaling(SuperResolution):
    """Adds noise, then shrinks and enlarges each photo as `superres` does.

    The reference enlarges the noisy photo from 512 to 2048 px, by a fork of the x4 upscaler that is
    told of noise of level 320 but adds none, with a caption of the photo as its prompt. Here the
    photo is shrunk first, which averages much of the noise and fits in memory, the pipeline adds
    the noise that it tells of, so that its level stays at `superres`'s, and the prompt is the same
    for every photo.
    """

    source = "Hönig et al. 2024, Robust Style Mimicry, arXiv 2406.12027 (recipes 2)"
    presets = {name: dict(SuperResolution.presets[name]) for name in ("paper", "mini", "tiny")}

    sigma: float = Field(0.1, gt=0, le=1, description="standard deviation, on [0, 1]")

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        return super().clean(noised(pixels, self.sigma, job).clamp(0, 1), job)
