"""No protection: the baseline as an ordinary method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.protect.base import PhotoProtection, protections
from cloakbench.settings import Levels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.running.jobs import Job


@protections.register("clean")
class Clean(PhotoProtection):
    """Leaves the photos as they are."""

    source = "control"

    budget: Levels = Field(0, description="not used: nothing is changed")

    @property
    def is_control(self) -> bool:
        return True

    def perturb(self, identity: Identity, job: Job) -> Tensor:
        return identity.instance_images.pixels
