"""PhotoGuard on the encoder: draw a photo's latents to zero or to a target's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, mean_square
from cloakbench.protect.target import TargetedProtection, check_target

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("photoguard")
class PhotoGuard(TargetedProtection, PhotowiseProtection):
    """Minimises the distance of the latents' mean to zero or to a target.

    Steps shrink linearly to a hundredth. The distance is squared here, which changes no sign of
    its gradient. `paper` rounds the budget of 7.65/255 (0.06 on [-1, 1]) up.
    """

    source = "Salman et al. 2023, PhotoGuard, arXiv 2302.06588, section 3; notebooks (recipes 1.9)"
    presets = {
        "paper": {"budget": "8/255"},
        "mini": {"steps": 300},
        "tiny": {"steps": 2},
    }
    encodes = True

    towards: Literal["zero", "target"] = Field(
        "zero", description="zero latents (the image-to-image notebook's), or the target's"
    )

    @field_validator("towards")
    @classmethod
    def _target_is_used(cls, value: str, info: ValidationInfo) -> str:
        return check_target(value, info, used=value == "target", say="towards: target")

    relative_step: float = Field(
        1 / 3, gt=0, le=1, description="first PGD step as a share of the budget (0.02 of 0.06)"
    )
    steps: int = Field(1000, ge=1, description="PGD steps for each photo")

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        goal = self.target_latents(photos, model) if self.towards == "target" else 0

        def nearness(pixels: Tensor, step: int, rows: slice) -> Tensor:
            return -mean_square(model.mode(model.posterior(pixels)) - goal)

        return nearness

    def step_size(self, step: int) -> float:
        return super().step_size(step) * (1 - 0.99 * step / self.steps)
