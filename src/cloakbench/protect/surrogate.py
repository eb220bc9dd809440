"""Surrogates: models that a protection trains and differentiates through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from cloakbench.prior import PriorPreservation
from cloakbench.protect.ascent import Ascent

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.running.jobs import Job


BATCH = 4  # photos differentiated at once: as many as the scripts' set_B has


class SurrogateProtection(PriorPreservation, Ascent):
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

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        """A thawed surrogate with its optimiser and class images."""
        from cloakbench.models.tuning import FineTuner

        prompts = identity.prompts
        prior = self.prior(model, identity.class_images, prompts.class_prompt)
        self.thaw(model, job)
        return FineTuner(model, prompts.instance_prompt, prior, learning_rate=self.learning_rate)

    def thaw(self, model: DiffusionModel, job: Job) -> None:
        """Thaw (or add) the weights that the surrogate trains."""
        model.thaw("all", text_encoder=self.train_text_encoder)


class DenoisingLoss(Protocol):
    """A `pgd.Loss` whose timesteps, shape (n,), can be chosen."""

    def __call__(self, pixels: Tensor, step: int, timesteps: Tensor | None = None) -> Tensor: ...


def denoising(model: DiffusionModel, prompt: str, job: Job) -> DenoisingLoss:
    """The denoising loss of pixels under a prompt, for a model that trains on only after it.

    Each step draws one timestep, one noise and one posterior sample per image. Of more than `BATCH`
    images, the activations of one batch are in memory at a time: they are computed again for the
    gradient (Chen et al. 2016, arXiv 1604.06174).
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    with torch.no_grad():
        text = model.embed([prompt])

    def of_batch(pixels: Tensor, timesteps: Tensor | None, *draws: int) -> Tensor:
        rng = job.rng("pgd", *draws)
        latents = model.draw(model.posterior(pixels), rng)
        return model.denoising_loss(latents, text.repeated(len(pixels)), rng, timesteps)

    def loss(pixels: Tensor, step: int, timesteps: Tensor | None = None) -> Tensor:
        if len(pixels) <= BATCH:
            return of_batch(pixels, timesteps, step)
        losses = []
        for start in range(0, len(pixels), BATCH):
            batch = slice(start, start + BATCH)
            chosen = None if timesteps is None else timesteps[batch]
            arguments = (of_batch, pixels[batch], chosen, step, start)
            losses.append(checkpoint(*arguments, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(losses)

    return loss
