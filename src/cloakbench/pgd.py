"""Projected gradient ascent in the L-infinity ball: the one engine of every such protection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, int], Tensor]
"""Maps pixels (n, 3, h, w) and the step's number to one loss per image (n,), to be maximised."""


def pgd(
    pixels: Tensor,
    original: Tensor,
    loss: Loss,
    *,
    radius: float,
    step_size: float,
    steps: range,
) -> Tensor:
    """Steps of x <- Proj(x + step_size * sign(grad L(x))) around `original`.

    pixels, original: (n, 3, h, w) in [0, 1]. radius, step_size: in units of [0, 1]. Images do not
    influence one another: the losses are summed and each gradient is reduced to its sign. A NaN in
    it stays NaN, so that the protection fails instead of standing still.
    Source: Madry et al. 2018, eq. 1.
    """
    low = (original - radius).clamp(0, 1)
    high = (original + radius).clamp(0, 1)
    for step in steps:
        pixels = pixels.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(pixels, step).sum(), pixels)
        sign = gradient.sign().where(~gradient.isnan(), gradient)  # torch's sign of NaN is 0
        pixels = (pixels + step_size * sign).clamp(low, high)
    return pixels.detach()


class Pixels:
    """Pixels in a box that checkpoints can save and restore."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"].to(self.value.device)
