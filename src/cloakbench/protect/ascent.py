"""Protections by projected gradient ascent: their step, and what they look through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from cloakbench.protect.base import ModelProtection
from cloakbench.protect.pgd import draws_of, pgd
from cloakbench.purify.base import Purifier, build_purifier, complete_specs

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.protect.pgd import Loss
    from cloakbench.registry import Part
    from cloakbench.running.jobs import Job


class Ascent(ModelProtection):
    """Shared by all protections that ascend a loss of the pixels; they write the loss.

    With `through`, the loss is that of purified pixels: the protection adapts to who purifies. The
    gradient is exact where a purification has one and passes straight through it elsewhere, as in
    Athalye et al. 2018, arXiv 1802.00420, section 4.1; random ones draw anew at every step
    (section 4.2, one draw of the expectation).
    """

    relative_step: float = Field(0.1, gt=0, le=1, description="PGD step as a share of the budget")
    through: list[dict[str, Any]] = Field(
        [], description="specs of purifications that the loss looks through, first to last"
    )

    _complete_through = field_validator("through", mode="before")(complete_specs)

    @property
    def purifiers(self) -> list[Purifier]:
        """What the loss looks through."""
        return [build_purifier(spec) for spec in self.through]

    @property
    def parts(self) -> Sequence[Part]:
        return [*super().parts, *self.purifiers]

    def step_size(self, step: int) -> float:
        """The length of a PGD step, in units of [0, 1]."""
        return self.relative_step * self.radius

    batch: ClassVar[int | None] = None
    """Photos whose gradients are taken at once; all, if None."""

    def ascend(
        self,
        pixels: Tensor,
        original: Tensor,
        model: DiffusionModel,
        loss: Loss,
        job: Job,
        steps: range,
    ) -> Tensor:
        """Steps of PGD on a loss of the model, whose weights stay as they are."""
        with model.frozen():
            return pgd(
                *(pixels, original, self.adaptive(loss, model, job)),
                radius=self.radius,
                step_size=self.step_size,
                steps=steps,
                batch=self.batch,
            )

    def adaptive(self, loss: Loss, model: DiffusionModel, job: Job) -> Loss:
        """The loss of what the purifications make of the pixels; the loss itself without any."""
        if not self.through:
            return loss
        chosen, drawing = self.purifiers, replace(job, scratch=None)

        def seen_through(pixels: Tensor, step: int, *rows: slice) -> Tensor:
            for number, purifier in enumerate(chosen):
                draws = drawing.part("through", number, *draws_of(step, *rows))
                pixels = purifier.through(pixels, model, draws)
            return loss(pixels, step, *rows)

        return seen_through
