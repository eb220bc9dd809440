"""Surrogates: models that a protection trains and differentiates through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.errors import some_of
from cloakbench.prior import PriorPreservation
from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.pgd import draws_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.running.jobs import Job


class SurrogateProtection(PriorPreservation, PromptedAscent):
    """Shared by protections that ascend the denoising loss of a DreamBooth surrogate.

    Source: Anti-DreamBooth, Le et al. 2023, section 4; settings from its scripts (recipes 1.2-1.3),
    which write budgets for [-1, 1]: their 0.05 is 6.4/255 here.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "surrogate_images", "class_images"})

    relative_step: float = Field(
        0.1, gt=0, le=1, description="PGD step as a share of the budget (0.005 of 0.05 there)"
    )
    learning_rate: float = Field(5e-7, gt=0, description="AdamW's rate for the surrogate")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class images' loss; 0: none")
    train_text_encoder: bool = Field(True, description="train the text encoder with the U-Net")

    @property
    def lighter(self) -> str:
        return some_of({**self.sparing, "choose the protection 'aspl_lora'": True})

    @property
    def sparing(self) -> dict[str, bool]:
        """Settings that take less memory, and whether they are not there yet."""
        return {}

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        """A thawed surrogate with its optimiser and class images."""
        from cloakbench.models.tuning import FineTuner

        prompts = identity.prompts
        prior = self.prior(model, identity.class_images, self.class_prompt(prompts))
        self.thaw(model, job)
        prompt = self.instance_prompt(prompts)
        return FineTuner(model, prompt, prior, learning_rate=self.learning_rate)

    def thaw(self, model: DiffusionModel, job: Job) -> None:
        """Thaw (or add) the weights that the surrogate trains."""
        model.thaw("all", text_encoder=self.train_text_encoder)


class Denoising:
    """The denoising loss of pixels under a prompt, for a model that trains on only after it.

    Each step draws one posterior sample, one noise and one timestep per image.
    """

    def __init__(self, model: DiffusionModel, prompt: str, job: Job) -> None:
        import torch

        self._model, self._job = model, job
        with torch.no_grad():
            self._text = model.embed([prompt])

    def __call__(
        self, pixels: Tensor, step: int, rows: slice, timesteps: Tensor | None = None
    ) -> Tensor:
        """A `pgd.Loss`. timesteps: (n,), uniform if None."""
        latents, rng = self.latents(pixels, step, rows)
        return self.of_latents(latents, rng, timesteps)

    def latents(self, pixels: Tensor, step: int, rows: slice) -> tuple[Tensor, Generator]:
        """Scaled latents of a step, and the generator that the rest of the step draws from."""
        rng = self._job.rng("pgd", *draws_of(step, rows))
        return self._model.draw(self._model.posterior(pixels), rng), rng

    def of_latents(self, latents: Tensor, rng: Generator, timesteps: Tensor | None) -> Tensor:
        """The loss of latents (n, c, h, w), shape (n,)."""
        text = self._text.repeated(len(latents))
        return self._model.denoising_loss(latents, text, rng, timesteps)
