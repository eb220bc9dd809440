"""No purification: the baseline as an ordinary method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloakbench.purify.base import Purifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@purifiers.register("none")
class NoPurification(Purifier):
    """Leaves the photos as they are."""

    source = "control"

    @property
    def is_control(self) -> bool:
        return True

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        return pixels
