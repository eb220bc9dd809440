"""Surrogates: models that a protection trains and differentiates through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.base import Protection

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.finetune import FineTuner, Prior
    from cloakbench.identity import Identity
    from cloakbench.jobs import Job


class SurrogateProtection(Protection):
    """Shared by protections that ascend the denoising loss of a DreamBooth surrogate.

    Source: Anti-DreamBooth, Le et al. 2023, section 4; settings from its scripts (recipes 1.2-1.3),
    which write budgets for [-1, 1]: their 0.05 is 6.4/255 here.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "surrogate_images", "class_images"})

    relative_step: float = Field(
        0.1, gt=0, le=1, description="PGD step as a share of the budget (0.005 of 0.05 there)"
    )
    learning_rate: float = Field(5e-7, gt=0, description="AdamW's rate for the surrogate")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class images' loss")
    train_text_encoder: bool = Field(True, description="train the text encoder with the U-Net")

    @property
    def radius(self) -> float:
        """The budget in units of [0, 1]."""
        return self.budget / 255

    def tuner(self, model: LatentDiffusion, identity: Identity) -> FineTuner:
        """A thawed surrogate with its optimiser and class images."""
        from cloakbench.finetune import FineTuner, thaw

        thaw(model, text_encoder=self.train_text_encoder)
        return FineTuner(
            model,
            identity.prompts.instance_prompt,
            self._prior(model, identity),
            learning_rate=self.learning_rate,
        )

    def ascend(
        self,
        pixels: Tensor,
        original: Tensor,
        model: LatentDiffusion,
        prompt: str,
        job: Job,
        steps: range,
    ) -> Tensor:
        """PGD ascent on the denoising loss under the instance prompt; all images in one batch.

        Each step draws one timestep, one noise and one posterior sample per image.
        """
        from cloakbench.finetune import frozen
        from cloakbench.pgd import pgd

        with frozen(model):
            text = model.embed([prompt]).expand(len(pixels), -1, -1)
            return pgd(
                pixels,
                original,
                denoising(model, text, job),
                radius=self.radius,
                step_size=self.relative_step * self.radius,
                steps=steps,
            )

    def _prior(self, model: LatentDiffusion, identity: Identity) -> Prior | None:
        from cloakbench.finetune import Prior

        if self.prior_weight == 0 or identity.class_images is None:
            return None
        return Prior(
            model.posterior_once(identity.class_images.pixels),
            identity.prompts.class_prompt,
            self.prior_weight,
        )


def denoising(model: LatentDiffusion, text: Tensor, job: Job) -> Callable[[Tensor, int], Tensor]:
    """The denoising loss as a function of pixels, with fresh draws for every step."""

    def loss(pixels: Tensor, step: int) -> Tensor:
        rng = job.rng("pgd", step)
        latents = model.draw(model.posterior(pixels), rng)
        return model.denoising_loss(latents, text, rng)

    return loss
