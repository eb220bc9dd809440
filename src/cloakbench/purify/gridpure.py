"""GrIDPure: many shallow purifications of windows, each blended with the photo before it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.files.images import resized
from cloakbench.purify.base import purifiers
from cloakbench.purify.denoise import MINI, PixelDenoiser, PixelDiffusing, enlarged, run_windows
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("gridpure")
class GrIDPure(PixelDiffusing):
    """Denoises windows of the photo, averages them and blends in the photo, again and again.

    Windows have the model's side and overlap by half; one more is composed of the photo's corners:
    ten windows for 512 px and a model of 256 px, as for 128 px and the miniature's 64 px. Passes
    are not rounded to 8 bits in between, as they are in the reference. `diffshortcut` is the
    paper's baseline as its script ran, but takes every step of its depth (see
    `cloakbench.purify.denoise`).
    """

    source = "Zhao et al. 2024, GrIDPure, arXiv 2312.00084 (recipes 2)"
    presets = {
        "paper": {"depth": 10, "passes": 20, "blend": 0.1},
        "diffshortcut": {"depth": 41, "passes": 10, "corners": False},
        "mini": {"weights": MINI, "passes": 10},
        "tiny": {"weights": "tiny_ddpm", "depth": 1, "passes": 2},
    }

    depth: int = Field(10, ge=1, le=1000, description="steps of noise in each pass")
    passes: int = Field(20, ge=1, description="passes")
    blend: float = Field(0.1, ge=0, lt=1, description="share of the photo before each pass")
    corners: bool = Field(True, description="a window more, composed of the photo's corners")

    def denoised(self, pixels: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        cleaned = Pixels(enlarged(pixels, network.side))
        for number in job.steps("gridpure", self.passes, {"pixels": cleaned}):
            draw = partial(job.rng, "pass", number)
            denoised = run_windows(
                cleaned.value,
                network.side,
                partial(network.purified, depth=self.depth, draw=draw),
                corners=self.corners,
            )
            cleaned.value = (1 - self.blend) * denoised + self.blend * cleaned.value
        return resized(cleaned.value, pixels.shape[-2:])
