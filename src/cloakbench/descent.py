"""Descent on pixels that a hinge on a perceptual distance holds near a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cloakbench.files.weights import WeightFile, weights_in
from cloakbench.models.perceptual import LPIPS_FILES, Distance, dssim, load_lpips, lpips_files
from cloakbench.registry import Method

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job

Objective = Callable[["Tensor", slice], "Tensor"]
"""Maps a part of the pixels and its place among all of them to one loss per image."""


class PerceptualDescent(Method):
    """Shared by methods that optimise pixels with Adam under a perceptual hinge.

    The loss of an image is an objective plus weight * max(distance - bound, 0). `dssim` needs no
    weights and serves the miniature, a deviation: its values are not LPIPS's, so a bound belongs
    to its distance.
    """

    steps: int = Field(500, ge=1, description="Adam's steps")
    learning_rate: float = Field(0.005, gt=0, description="Adam's rate for pixels in [0, 1]")
    perceptual: Literal["lpips", "dssim"] = Field(
        "lpips",
        description=f"distance of the hinge: LPIPS with VGG16, from {' and '.join(LPIPS_FILES)} "
        "here, in $CLOAKBENCH_WEIGHTS or in ~/.cache/cloakbench; or (1 - SSIM) / 2",
    )
    perceptual_bound: float = Field(
        0.05, ge=0, description="distance from the given photo that costs nothing"
    )
    perceptual_weight: float = Field(30.0, ge=0, description="weight of the distance beyond it")
    batch_size: int = Field(1, ge=1, description="images differentiated at once; memory only")

    def files(self) -> Iterable[WeightFile]:
        files = lpips_files() if self.perceptual == "lpips" else []
        return [each for file in files for each in weights_in(file)]

    def distance(self, device: str) -> Distance:
        """The hinge's distance, ready on a device."""
        return dssim if self.perceptual == "dssim" else load_lpips(device)

    def hinge(self, distance: Tensor) -> Tensor:
        """What distances (n,) cost: nothing up to the bound."""
        return self.perceptual_weight * (distance - self.perceptual_bound).clamp(min=0)

    def descend(
        self,
        start: Tensor,
        original: Tensor,
        objective: Objective,
        job: Job,
        *,
        low: Tensor | float = 0.0,
        high: Tensor | float = 1.0,
        rate: Callable[[int], float],
        epsilon: float = 1e-8,
    ) -> Tensor:
        """Adam from `start` on objective and hinge, clamped to [low, high] after every step.

        start, original: (n, 3, h, w) in [0, 1], on the device of the job. rate: the learning rate
        of a step. Images do not influence one another: their losses are summed, and Adam scales
        every value by its own moments.
        """
        import torch

        pixels = torch.nn.ParameterList([start.clone()])  # a list restores its pixels in place
        adam = torch.optim.Adam(pixels, eps=epsilon)
        distance = self.distance(job.device)
        parts = [slice(i, i + self.batch_size) for i in range(0, len(start), self.batch_size)]
        for step in job.steps(self.name, self.steps, {"pixels": pixels, "adam": adam}):
            adam.param_groups[0]["lr"] = rate(step)
            adam.zero_grad()
            for part in parts:
                changed = pixels[0][part]
                losses = objective(changed, part) + self.hinge(distance(changed, original[part]))
                losses.sum().backward()
            adam.step()
            with torch.no_grad():
                pixels[0].clamp_(low, high)
        return pixels[0].detach()
