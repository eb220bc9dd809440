"""Downscaling and upscaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.purify.base import DifferentiablePurifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("resize")
class Resize(DifferentiablePurifier):
    """Bilinear resizing to a fraction of the side and back, with antialiasing."""

    source = "CAT's baseline, 512 to 128 px and back (recipes 2)"
    presets = {"paper": {"factor": 4}, "mini": {"factor": 2}, "tiny": {"factor": 2}}

    factor: int = Field(4, ge=2, le=16, description="how many times smaller the side becomes")

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        from torch.nn.functional import interpolate

        size = pixels.shape[-2:]
        small = [max(1, side // self.factor) for side in size]
        reduced = interpolate(pixels, small, mode="bilinear", antialias=True)
        return interpolate(reduced, size, mode="bilinear", antialias=True)
