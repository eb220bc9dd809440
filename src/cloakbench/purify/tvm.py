"""Total variation minimisation after dropping random pixels."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.files.images import resized
from cloakbench.purify.base import DifferentiablePurifier, purifiers
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job

PUBLISHED_SIDE = 64  # px; the size of image that the published weight belongs to
NORM = sqrt(8)  # of the gradient, at most
RATIO = 0.03  # primal to dual step, times the weight; found by trial at 64, 128 and 512 px


@purifiers.register("tvm")
class TVM(DifferentiablePurifier):
    """Finds the image of least total variation near the pixels that a random drop leaves.

    It minimises |K (z - x)| + weight * TV(z) for each image, K keeping what was not dropped: the
    Euclidean norm over all its values, and the isotropic total variation of the three channels
    together, so that edges stay where all of them have them. The norm is not squared, as in the
    reference, which makes the fit adapt to the amount of noise: clean photos hardly change.

    The reference solves for 64 px images with a commercial solver and leaves the result at that
    size (`paper` enlarges it again). Its total variation sums the norms of the differences of whole
    rows and of whole columns, channels interleaved; with its weight no kept value moves, so that it
    only fills in what was dropped, each channel by itself. Here it is that of pixels, so that
    `paper` purifies more. It runs at full resolution unless `side` is given, and the weight is
    scaled by 64 px over the image's side, so that norm and total variation stay in proportion.
    """

    source = "Guo et al. 2018, arXiv 1711.00117; DiffShortcut defenses/tvm.py"
    needs: ClassVar[frozenset[str]] = frozenset({"gpu"})
    presets = {
        "paper": {"side": 64},
        "mini": {},
        "tiny": {"iterations": 40},
    }

    drop: float = Field(0.02, ge=0, lt=1, description="share of the pixels that are dropped")
    weight: float = Field(
        0.01, gt=0, description="weight of the total variation of a 64 px image (see above)"
    )
    side: int | None = Field(
        None, ge=16, description="shorter side at which it is solved [px]; null: the photo's"
    )
    iterations: int = Field(100, ge=1, description="steps of the primal-dual solver")

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        import torch

        size = pixels.shape[-2:]
        observed = pixels.to(job.device)
        if self.side is not None:
            observed = resized(observed, [round(edge * self.side / min(size)) for edge in size])
        height, width = observed.shape[-2:]
        draws = [
            torch.rand((1, height, width), generator=job.rng("drop", index))
            for index in range(len(pixels))
        ]
        kept = (torch.stack(draws) >= self.drop).to(observed)
        weight = self.weight * PUBLISHED_SIDE / sqrt(height * width)
        cleaned = minimise(observed, kept, weight, self.iterations, job)
        return cleaned if self.side is None else resized(cleaned, size)


def minimise(observed: Tensor, kept: Tensor, weight: float, iterations: int, job: Job) -> Tensor:
    """The z (n, 3, h, w) that minimises |kept (z - observed)| + weight * TV(z) for each image.

    kept: 1 or 0 for each pixel, (n, 1, h, w).
    Source: Chambolle & Pock 2011, doi:10.1007/s10851-010-0251-1, algorithm 1.
    """
    from cloakbench.models.gradients import recomputed

    tau, sigma = RATIO / weight / NORM, weight / RATIO / NORM

    def iterated(solution: Tensor, ahead: Tensor, dual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        climbed = dual + sigma * gradient(ahead)
        dual = climbed * (weight / norm(climbed, (0, 2), weight))
        moved = solution + tau * divergence(dual)
        misfit = kept * (moved - observed)
        moved = moved - misfit * (tau / norm(misfit, (1, 2, 3), tau))
        return moved, 2 * moved - solution, dual

    solution, ahead = Pixels(observed.clone()), Pixels(observed)
    dual = Pixels(gradient(observed) * 0)
    state = {"solution": solution, "ahead": ahead, "dual": dual}
    for _ in job.steps("tvm", iterations, state):
        found = recomputed(iterated, solution.value, ahead.value, dual.value)
        solution.value, ahead.value, dual.value = found
    return solution.value


def norm(values: Tensor, dims: tuple[int, ...], least: float) -> Tensor:
    """The Euclidean norm over some dimensions, or `least` where it is less, without a gradient."""
    squares = values.square().sum(dims, keepdim=True)
    return squares.clamp(min=least**2).sqrt()  # the root has no gradient at 0


def gradient(pixels: Tensor) -> Tensor:
    """Differences to the next row and the next column, (2, n, 3, h, w); 0 at the last ones."""
    import torch
    from torch.nn.functional import pad

    down = pad(pixels.diff(dim=-2), (0, 0, 0, 1))
    right = pad(pixels.diff(dim=-1), (0, 1))
    return torch.stack([down, right])


def divergence(field: Tensor) -> Tensor:
    """Minus the transpose of `gradient`, for a field that is 0 in the last row and column."""
    from torch.nn.functional import pad

    down, right = field
    return pad(down, (0, 0, 1, 0)).diff(dim=-2) + pad(right, (1, 0)).diff(dim=-1)
