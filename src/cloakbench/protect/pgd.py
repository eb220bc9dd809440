"""Projected gradient ascent in the L-infinity ball: the one engine of every such protection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 4  # photos differentiated at once: as many as Anti-DreamBooth's set_B has

Loss = Callable[["Tensor", int, slice], "Tensor"]
"""Maps pixels (n, 3, h, w), a step's number and which of all photos these are to one loss per image
(n,), to be maximised."""


def pgd(
    pixels: Tensor,
    original: Tensor,
    loss: Loss,
    *,
    radius: float,
    step_size: Callable[[int], float],
    steps: range,
) -> Tensor:
    """Steps of x <- Proj(x + step_size * sign(grad L(x))) around `original`.

    pixels, original: (n, 3, h, w) in [0, 1]. radius, and a step's size by its number: in units of
    [0, 1]. Images do not influence one another: the losses are summed and each gradient is reduced
    to its sign.
    Source: Madry et al. 2018, eq. 1.
    """
    pixels = pixels.detach()
    for step in steps:
        found = gradient(loss, pixels, step)
        pixels = ascended(pixels, found, original, radius, step_size(step))
    return pixels


def gradient(loss: Loss, pixels: Tensor, step: int) -> Tensor:
    """The gradient of each image's loss in its pixels (n, 3, h, w), one batch after another."""
    import torch

    found: list[Tensor] = []
    for part, rows in batches(pixels):
        part = part.detach().requires_grad_(True)
        losses = loss(part, step, rows)
        found += torch.autograd.grad(losses, part, torch.ones_like(losses))
    return torch.cat(found) if len(found) > 1 else found[0]


def batches(pixels: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Images by the batch, and which of all they are."""
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, start + BATCH)
        yield pixels[rows], rows


def draws_of(step: int, rows: slice) -> tuple[int, ...]:
    """What names the draws of a step for a batch; the first one's do not tell if there are more."""
    return (step, rows.start) if rows.start else (step,)


def ascended(
    pixels: Tensor, gradient: Tensor, original: Tensor, radius: float, step_size: float
) -> Tensor:
    """One step: along the gradient's sign, then back into the ball and into [0, 1].

    A NaN in the gradient stays NaN, so that the protection fails instead of standing still.
    """
    sign = gradient.where(gradient.isnan(), gradient.sign())  # torch's sign of NaN is 0
    moved = pixels.add(sign, alpha=step_size)
    return moved.clamp(original - radius, original + radius).clamp(0, 1)
