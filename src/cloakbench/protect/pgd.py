"""Projected gradient ascent in the L-infinity ball: the one engine of every such protection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", int], "Tensor"]
"""Maps pixels (n, 3, h, w) and the step's number to one loss per image (n,), to be maximised."""


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
    import torch

    for step in steps:
        pixels = pixels.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(pixels, step).sum(), pixels)
        pixels = ascended(pixels.detach(), gradient, original, radius, step_size(step))
    return pixels.detach()


def ascended(
    pixels: Tensor, gradient: Tensor, original: Tensor, radius: float, step_size: float
) -> Tensor:
    """One step: along the gradient's sign, then back into the ball and into [0, 1].

    A NaN in the gradient stays NaN, so that the protection fails instead of standing still.
    """
    sign = gradient.sign().where(~gradient.isnan(), gradient)  # torch's sign of NaN is 0
    low, high = (original - radius).clamp(0, 1), (original + radius).clamp(0, 1)
    return (pixels + step_size * sign).clamp(low, high)
