"""IMPRESS: pixels that the autoencoder reproduces, near the given photo."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.descent import PerceptualDescent
from cloakbench.purify.base import ModelPurifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job

LAST_RATE = 5e-6  # of the cosine schedule; 1e-5 on the reference's [-1, 1]
EPSILON = 2e-5  # Adam's, 1e-5 there: above most gradients, so that steps shrink with them


@purifiers.register("impress")
class IMPRESS(PerceptualDescent, ModelPurifier):
    """Consistency-based purification: protected photos are those that a VAE reproduces badly.

    Starts from the photo with Gaussian noise and minimises the mean squared change (on [-1, 1])
    of a round trip through the experiment's VAE, under a perceptual hinge around the photo.
    Rates and noise are halves of the reference's, which works on [-1, 1]; unlike the reference,
    it runs in float32, and the round trip's end is clamped to pixels.
    `photoguard` is the reference's setting against PhotoGuard.
    """

    source = "Cao et al. 2023, IMPRESS, arXiv 2310.19248 (recipes 2)"
    encodes = True
    presets = {
        "paper": {},
        "photoguard": {
            "steps": 1000,
            "learning_rate": 0.0025,
            "perceptual_weight": 0.01,
            "noise": 0.025,
        },
        "mini": {"steps": 60, "learning_rate": 0.01, "perceptual": "dssim", "batch_size": 4},
        "tiny": {"steps": 3, "perceptual": "dssim", "batch_size": 2},
    }

    steps: int = Field(3000, ge=1, description="Adam's steps")
    perceptual_bound: float = Field(
        0.1, ge=0, description="distance from the given photo that costs nothing"
    )
    perceptual_weight: float = Field(0.1, ge=0, description="weight of the distance beyond it")
    noise: float = Field(
        0.05, ge=0, le=1, description="standard deviation of the noise at the start, on [0, 1]"
    )

    def clean(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        import torch

        height, width = pixels.shape[-2:]
        original = model.padded(pixels).to(model.device)
        draws = [
            torch.randn(photo.shape, generator=job.rng("noise", index))
            for index, photo in enumerate(original)
        ]
        with model.full_precision():  # inconsistencies are small differences of pixels
            cleaned = self.descend(
                (original + self.noise * torch.stack(draws).to(model.device)).clamp(0, 1),
                original,
                lambda changed, _: inconsistency(model, changed),
                job,
                rate=self.rate,
                epsilon=EPSILON,
            )
        return cleaned[..., :height, :width]

    def rate(self, step: int) -> float:
        """The learning rate of a step: half a cosine from `learning_rate` to the last rate."""
        height = (1 + math.cos(math.pi * step / self.steps)) / 2
        return LAST_RATE + (self.learning_rate - LAST_RATE) * height


def inconsistency(model: DiffusionModel, pixels: Tensor) -> Tensor:
    """Mean squared change on [-1, 1] by the VAE's round trip (posterior mean), one per image."""
    reproduced = model.decode(model.mode(model.posterior(pixels)))
    return 4 * (reproduced - pixels).square().flatten(1).mean(1)
