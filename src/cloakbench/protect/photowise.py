"""Protections that perturb each photo by itself, by PGD on a loss of that photo."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.base import Protection

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.identity import Identity
    from cloakbench.jobs import Job
    from cloakbench.pgd import Loss
    from cloakbench.prompts import Prompts


class PhotowiseProtection(Protection):
    """Shared by protections that treat each photo alone; a child writes `objective`.

    Photos go one at a time and draw by their position, so that memory does not grow with their
    number and photo i comes out the same whatever stands behind it.

    `random_start` begins uniformly within the budget, where the reference does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    random_start: ClassVar[bool] = True

    relative_step: float = Field(
        1 / 16, gt=0, le=1, description="PGD step as a share of the budget (1/255 of 16/255 there)"
    )
    steps: int = Field(100, ge=1, description="PGD steps for each photo")

    @abstractmethod
    def objective(self, photo: Tensor, model: LatentDiffusion, prompts: Prompts, job: Job) -> Loss:
        """What PGD maximises for one photo (1, 3, h, w) in [0, 1]; it draws from `job`."""

    def perturb(self, identity: Identity, model: LatentDiffusion | None, job: Job) -> Tensor:
        from cloakbench.pgd import Pixels

        assert model is not None
        original = identity.instance_images.pixels.to(model.device)
        losses = self.objectives(original, model, identity.prompts, job)
        perturbed = Pixels(self.start(original, job))
        for number in job.steps("pgd", len(original) * self.steps, {"pixels": perturbed}):
            index, step = divmod(number, self.steps)
            photo = slice(index, index + 1)
            perturbed.value[photo] = self.ascend(
                perturbed.value[photo], original[photo], losses[index], range(step, step + 1)
            )
        return perturbed.value

    def objectives(
        self, original: Tensor, model: LatentDiffusion, prompts: Prompts, job: Job
    ) -> list[Loss]:
        """The objective of every photo."""
        return [
            self.objective(photo, model, prompts, job.part("photo", index))
            for index, photo in enumerate(original.split(1))
        ]

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

    def ascend(self, pixels: Tensor, original: Tensor, loss: Loss, steps: range) -> Tensor:
        """Steps of PGD on a photo's objective."""
        from cloakbench.pgd import pgd

        for step in steps:
            pixels = pgd(
                pixels,
                original,
                loss,
                radius=self.radius,
                step_size=self.step_size(step),
                steps=range(step, step + 1),
            )
        return pixels

    def step_size(self, step: int) -> float:
        """The length of a PGD step, in units of [0, 1]."""
        return self.relative_step * self.radius


def mean_square(difference: Tensor) -> Tensor:
    """The mean square of each image's values, shape (n,)."""
    return difference.square().flatten(1).mean(1)
