"""No purification: the baseline as an ordinary method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloakbench.purify.base import DifferentiablePurifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("none")
class NoPurification(DifferentiablePurifier):
    """Leaves the photos as they are."""

    source = "control"

    @property
    def is_control(self) -> bool:
        return True

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        return pixels
