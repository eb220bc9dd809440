"""Textures that no network here is trained on: what measures and judges are tried with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cloakbench.miniature.pretrain.degrade import Random
from cloakbench.miniature.synth.arrays import Floats


def stripes(side: int, rng: Random) -> Floats:
    """Waves of any direction, 4 to 12 px long."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(4, 12)
    y, x = np.mgrid[:side, :side]
    return np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length)[None]


def worms(side: int, rng: Random) -> Floats:
    """Winding lines 4 to 8 px apart: noise of one band of frequencies."""
    width = rng.uniform(1, 2)
    draws = rng.standard_normal((side, side))
    return np.asarray(gaussian_filter(draws, width) - gaussian_filter(draws, 2 * width))[None]


def checks(side: int, rng: Random) -> Floats:
    """A chessboard of fields of 3 to 8 px."""
    field = int(rng.integers(3, 9))
    y, x = np.mgrid[:side, :side] // field
    return ((x + y) % 2 - 0.5)[None]


def blotches(side: int, rng: Random) -> Floats:
    """Soft spots, 2 to 4 px wide, of another shape in each channel: coloured ones."""
    width = rng.uniform(2, 4)
    return np.stack([gaussian_filter(rng.standard_normal((side, side)), width) for _ in range(3)])


TEXTURES: dict[str, Callable[[int, Random], Floats]] = {
    "stripes": stripes,
    "worms": worms,
    "checks": checks,
    "blotches": blotches,
}
"""Each gives (1 or 3, side, side)."""


def textured(pixels: Tensor, rng: Random, *, kind: str, levels: float) -> Tensor:
    """Pixels (n, 3, h, h) in [0, 1] under textures whose deviation is so many grey levels."""
    drawn = []
    for _ in pixels:
        texture = TEXTURES[kind](pixels.shape[-1], rng)
        drawn.append((texture - texture.mean()) / texture.std())
    added = torch.from_numpy(np.stack(drawn)).float()
    return (pixels + levels / 255 * added).clamp(0, 1)
