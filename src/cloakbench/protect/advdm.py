"""AdvDM: ascend, or descend, the denoising loss of the model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, by_photo

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("advdm")
class AdvDM(PhotowiseProtection, PromptedAscent):
    """Raises the denoising loss under the class prompt, or lowers it: AdvDM(-).

    Each step draws one timestep, one noise and one posterior sample.
    """

    source = (
        "Liang et al. 2023, AdvDM, arXiv 2302.04578; AdvDM(-) and settings: Xue et al. 2024, "
        "arXiv 2311.12832 (recipes 1.6)"
    )
    presets = {
        "paper": {"budget": "16/255"},
        "mini": {"steps": 60},
        "tiny": {"steps": 2},
    }

    direction: Literal["ascend", "descend"] = Field(
        "ascend", description="raise the denoising loss, or lower it"
    )

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        text = model.embed([self.naming(prompts.class_prompt)])
        sign = 1 if self.direction == "ascend" else -1

        def denoising(pixels: Tensor, step: int, rows: slice) -> Tensor:
            rngs = by_photo(job, step, pixels, rows)
            latents = model.draw(model.posterior(pixels), rngs)
            return sign * model.denoising_loss(latents, text.repeated(len(pixels)), rngs)

        return denoising
