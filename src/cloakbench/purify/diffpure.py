"""DiffPure: noise to a depth, and every ancestral step back, in pixel space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.purify.base import purifiers
from cloakbench.purify.denoise import MINI, PhotoDiffusing, PixelDenoiser

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("diffpure")
class DiffPure(PhotoDiffusing):
    """Noises each photo to a depth and lets an unconditional DDPM denoise it step by step.

    Photos are resized to the model's side and back, as in GrIDPure's baseline; `tiled` runs on
    windows at full resolution instead and averages them. `diffshortcut` is the paper's baseline as
    its script ran: tiled, from a depth of 402, on every fourth step (see
    `cloakbench.purify.denoise`).

    The fewer pixels a face has, the more of it noise hides. Where the reference's model sees a
    photo at 256 px, the miniature's windows see it at 128 px: its depth has half as much noise for
    as much signal.
    """

    source = "Nie et al. 2022, DiffPure, arXiv 2205.07460 (recipes 2)"
    presets = {
        "paper": {"depth": 150},
        "diffshortcut": {"depth": 402, "steps": 101, "tiled": True},
        "mini": {"weights": MINI, "depth": 75, "tiled": True},
        "tiny": {"weights": "tiny_ddpm", "depth": 3},
    }

    depth: int = Field(150, ge=1, le=1000, description="steps of noise, of the model's 1000")
    steps: int | None = Field(
        None, ge=1, description="steps of the way back, evenly spaced; null: all of the depth"
    )

    def cleaned(self, images: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        return self.walk(images, self.depth, network, job, self.steps)
