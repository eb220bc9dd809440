"""Random noise of the same budget: the control that every protection must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cloakbench.protect.base import PhotoProtection, protections

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.running.jobs import Job


@protections.register("noise")
class Noise(PhotoProtection):
    """Random noise: `sign` puts every channel value at the budget's edge, as PGD's end does."""

    source = "control; asked for in VinAIResearch/Anti-DreamBooth#10"
    presets = {"paper": {}, "mini": {}, "tiny": {}}

    distribution: Literal["sign", "uniform"] = Field(
        "sign", description="plus or minus the budget, or uniform within it"
    )

    @property
    def is_control(self) -> bool:
        return True

    def perturb(self, identity: Identity, job: Job) -> Tensor:
        import torch

        original = identity.instance_images.pixels
        draws = 2 * torch.rand(original.shape, generator=job.rng("noise")) - 1
        if self.distribution == "sign":
            draws = torch.where(draws < 0, -1.0, 1.0)
        return original + self.radius * draws
