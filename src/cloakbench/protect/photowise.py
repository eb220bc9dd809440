"""Protections that perturb each photo by itself, by PGD on a loss of that photo."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.ascent import Ascent
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


class PhotowiseProtection(Ascent):
    """Shared by protections that treat each photo alone; a child writes `objective`.

    Photos go in batches, so that memory does not grow with their number, and draw by their
    position, so that photo i comes out the same, but for rounding, whatever stands beside it. Where
    a loss looks through the VAE alone, that is in float32 as in the references: it is a small
    difference of latents, of which bfloat16 has three digits.

    `random_start` begins uniformly within the budget, where the reference does.
    """

    random_start: ClassVar[bool] = True
    effort: ClassVar[tuple[str, ...]] = ("steps",)

    relative_step: float = Field(
        1 / 16, gt=0, le=1, description="PGD step as a share of the budget (1/255 of 16/255 there)"
    )
    steps: int = Field(100, ge=1, description="PGD steps for each photo")

    @abstractmethod
    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        """What PGD maximises for photos (n, 3, h, w) in [0, 1]; it draws by `by_photo`."""

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        with model.full_precision() if self.encodes else nullcontext():
            return self._pgd(identity, model, job)

    def _pgd(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        original = identity.instance_images.pixels.to(model.device)
        loss = self.objective(original, model, identity.prompts, job)
        perturbed = Pixels(self.start(original, job))
        with model.frozen():
            for step in job.steps("pgd", self.steps, {"pixels": perturbed}):
                steps = range(step, step + 1)
                perturbed.value = self.ascend(perturbed.value, original, model, loss, job, steps)
        return perturbed.value

    def start(self, original: Tensor, job: Job) -> Tensor:
        """Where PGD begins: the photos, or uniform draws from within the budget around them."""
        import torch

        if not self.random_start:
            return original.clone()
        draws = [
            torch.rand(photo.shape, generator=job.part("photo", index).rng("start"))
            for index, photo in enumerate(original)
        ]
        noise = 2 * torch.stack(draws).to(original.device) - 1
        return (original + self.radius * noise).clamp(0, 1)


def mean_square(difference: Tensor) -> Tensor:
    """The mean square of each image's values, shape (n,)."""
    return difference.square().flatten(1).mean(1)


def by_photo(job: Job, step: int, pixels: Tensor, rows: slice) -> list[Generator]:
    """A generator for each photo of a batch, by its position among all: what a step draws from."""
    return [job.part("photo", rows.start + index).rng("pgd", step) for index in range(len(pixels))]
