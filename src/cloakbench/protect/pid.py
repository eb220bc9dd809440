"""PID: push what the VAE makes of a photo away from what it was, whatever the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, mean_square

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("pid")
class PID(PhotowiseProtection):
    """Prompt-independent defense: shifts the mean and log variance of the photo's latents.

    The loss is the script's "add-log": the mean squared change of the mean plus that of the log
    variance. `paper` rounds the budget of 12.75/255 up.
    """

    source = "Li et al. 2024, PID, arXiv 2406.15305; its script's settings (recipes 1.10)"
    presets = {
        "paper": {"budget": "13/255"},
        "mini": {"steps": 300},
        "tiny": {"steps": 2},
    }
    encodes = True

    relative_step: float = Field(
        0.0784, gt=0, le=1, description="PGD step as a share of the budget (1/255 of 12.75 there)"
    )
    steps: int = Field(1000, ge=1, description="PGD steps for each photo")

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        clean = model.posterior_once(photos)

        def shift(pixels: Tensor, step: int, rows: slice) -> Tensor:
            latents, before = model.posterior(pixels), clean[rows]
            log_variance = 2 * (latents.std.log() - before.std.log())
            return mean_square(latents.mean - before.mean) + mean_square(log_variance)

        return shift
