"""Mist: draw the latents to a target's (texture) while the denoising loss rises (semantic)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, by_photo, mean_square
from cloakbench.protect.target import TargetedProtection, check_target

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.models.base import DiffusionModel, Latents
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("mist")
class Mist(TargetedProtection, PhotowiseProtection, PromptedAscent):
    """Minimises the latents' distance to a target minus `rate` times the denoising loss.

    The distance is a mean over latent values here and a sum there, so that `rate` means the same
    at every resolution. It is taken between means, not samples, whose noise is negligible.
    """

    source = "Liang & Wu 2023, Mist, arXiv 2305.12683, section 3; mist_v3.py (recipes 1.7)"
    presets = {
        "paper": {"budget": "16/255"},
        "mini": {"steps": 60},
        "tiny": {"steps": 2},
    }

    mode: Literal["texture", "semantic", "fused"] = Field(
        "fused", description="the distance alone, the denoising loss alone, or both"
    )
    rate: float = Field(
        0.61,
        gt=0,
        description="weight of the denoising loss, fused (10^4 to a sum over 4x64x64 there)",
    )

    @field_validator("mode")
    @classmethod
    def _target_is_used(cls, value: str, info: ValidationInfo) -> str:
        return check_target(value, info, used=value != "semantic", say="mode: fused or texture")

    @property
    def encodes(self) -> bool:  # type: ignore[override]
        """Whether it can do with the VAE: the distance alone reads no prompt."""
        return self.mode == "texture"

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        text = None if self.encodes else model.embed([self.naming(prompts.class_prompt)])
        goal = None if self.mode == "semantic" else self.target_latents(photos, model)

        def semantic(latents: Latents, rngs: list[Generator]) -> Tensor:
            assert text is not None
            drawn = model.draw(latents, rngs)
            return model.denoising_loss(drawn, text.repeated(len(drawn)), rngs)

        def objective(pixels: Tensor, step: int, rows: slice) -> Tensor:
            latents, rngs = model.posterior(pixels), by_photo(job, step, pixels, rows)
            if goal is None:
                return semantic(latents, rngs)
            texture = -mean_square(model.mode(latents) - goal)
            if text is None:
                return texture
            return self.rate * semantic(latents, rngs) + texture

        return objective
