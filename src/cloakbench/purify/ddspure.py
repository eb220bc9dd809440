"""DDSPure: diffusion denoised smoothing, one shot from the depth that a budget corresponds to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from cloakbench.purify.base import purifiers
from cloakbench.purify.denoise import MINI, PhotoDiffusing, PixelDenoiser
from cloakbench.settings import Levels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("ddspure")
class DDSPure(PhotoDiffusing):
    """Adds noise as strong as the perturbation's budget and predicts the photo in one shot.

    The one shot is the method's; `diffshortcut` is the paper's baseline as its script ran: it walks
    back in eleven steps, from a depth found with half the noise on [-1, 1] and used on a respaced
    ladder (recipes 2).
    """

    source = (
        "Carlini et al. 2023, (Certified!!) Adversarial Robustness for Free!, arXiv 2206.10550, "
        "alg. 1; strength and resizing as in DiffShortcut defenses/ddspure.py (recipes 2)"
    )
    presets = {
        "paper": {"delta": "11/255"},
        "diffshortcut": {"depth": 41, "one_shot": False, "steps": 11},
        "mini": {"weights": MINI, "tiled": True},
        "tiny": {"weights": "tiny_ddpm"},
    }

    delta: Levels = Field(11, ge=1, description="standard deviation of the noise [grey levels]")

    depth: int | None = Field(
        None, ge=1, le=1000, description="steps of noise; null: as many as `delta` stands for"
    )
    one_shot: bool = Field(True, description="predict the photo at once, not step by step")
    steps: int | None = Field(
        None, ge=1, description="steps of the way back, if not in one shot; null: all of the depth"
    )

    def cleaned(self, images: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        depth = self.depth or matching_depth(network.scheduler, 2 * self.delta / 255)
        if not self.one_shot:
            return self.walk(images, depth, network, job, self.steps)
        return network.original(network.noised(images, depth, job.rng), depth, job.rng)


def matching_depth(scheduler: Any, delta: float) -> int:
    """The depth at which noise is to signal as `delta` on [-1, 1] is to 1, to the nearest step:
    abar = 1 / (1 + delta^2).
    """
    return int((scheduler.alphas_cumprod - 1 / (1 + delta**2)).abs().argmin()) + 1
