"""SDS: perturb along the score-distillation gradient, which needs no gradient of the U-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, by_photo, mean_square
from cloakbench.protect.target import TargetedProtection, check_target

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("sds")
class SDS(TargetedProtection, PhotowiseProtection, PromptedAscent):
    """Sends the U-Net's residual back through the encoder alone: SDS(+), SDS(-) and SDST.

    About half the time and memory of AdvDM. `descend` lowers the denoising loss, which blurs what
    is learned; the paper prefers it. `targeted` also draws the latents to a target (SDST). With a
    velocity model the residual is the velocity's, of the same direction, so that SDST's balance of
    `rate` against the pull shifts with the timestep.
    """

    source = "Xue et al. 2024, Toward effective protection, arXiv 2311.12832 (recipes 1.8)"
    presets = {
        "paper": {"budget": "16/255"},
        "mini": {"steps": 60},
        "tiny": {"steps": 2},
    }
    random_start: ClassVar[bool] = False

    direction: Literal["ascend", "descend"] = Field(
        "descend", description="raise the denoising loss, or lower it"
    )
    targeted: bool = Field(False, description="draw the latents to the target as well (SDST)")
    rate: float = Field(5.0, gt=0, description="weight of the residual against the target's pull")

    @field_validator("targeted")
    @classmethod
    def _target_is_used(cls, value: bool, info: ValidationInfo) -> bool:
        return check_target(value, info, used=value, say="targeted: true")

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        import torch

        text = model.embed([self.naming(prompts.class_prompt)])
        goal = self.target_latents(photos, model) if self.targeted else None
        sign = 1 if self.direction == "ascend" else -1

        def distillation(pixels: Tensor, step: int, rows: slice) -> Tensor:
            rngs = by_photo(job, step, pixels, rows)
            latents = model.posterior(pixels)
            drawn = model.draw(latents, rngs)
            with torch.no_grad():
                residual = model.residual(drawn, text.repeated(len(drawn)), rngs)
            score = sign * (residual * drawn).flatten(1).mean(1)  # its gradient is the residual
            if goal is None:
                return score
            return self.rate * score - mean_square(model.mode(latents) - goal)

        return distillation
