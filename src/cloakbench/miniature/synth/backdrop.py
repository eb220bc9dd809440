"""Backgrounds out of focus: smooth pictures in linear light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cloakbench.miniature.synth.arrays import Floats, vector
from cloakbench.miniature.synth.people import Shot

_GRID = 64  # [px] the pictures are low-frequency, so they are made small and enlarged


def backdrop(shot: Shot, size: int) -> Floats:
    """The shot's background, (size, size, 3) linear RGB in [0,1]."""
    rng = np.random.default_rng([shot.backdrop_seed, 5])
    small = _MAKERS[shot.backdrop](rng)
    light = 0.55 if shot.light_word == "dim light" else 1.0
    large = np.stack([zoom(small[..., c], size / _GRID, order=1, grid_mode=True, mode="nearest")
                      for c in range(3)], -1)  # fmt: skip
    return np.clip(large * np.float32(light), 0.002, 1).astype(np.float32)


def _axes() -> tuple[Floats, Floats]:
    """Coordinates (64, 64) in [0,1], x to the right, y down."""
    line = (np.arange(_GRID, dtype=np.float32) + 0.5) / _GRID
    y, x = np.meshgrid(line, line, indexing="ij")
    return x, y


def _muted(rng: np.random.Generator, low: float, high: float, spread: float = 0.12) -> Floats:
    """A colour of limited saturation with brightness between `low` and `high`."""
    colour: Floats = rng.uniform(low, high) * np.exp(rng.normal(0, spread, 3))
    return colour.astype(np.float32)


def _blur(picture: Floats, sigma: float) -> Floats:
    return gaussian_filter(picture, (sigma, sigma, 0), mode="nearest").astype(np.float32)


def _studio(rng: np.random.Generator) -> Floats:
    x, y = _axes()
    centre = rng.uniform(0.3, 0.7, 2)
    glow = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / rng.uniform(0.15, 0.5))
    colour = _muted(rng, 0.03, 0.55, 0.12)
    return colour * (0.55 + 0.6 * glow)[..., None]


def _wall(rng: np.random.Generator) -> Floats:
    x, y = _axes()
    colour = _muted(rng, 0.12, 0.62, 0.08)
    slope = 1 + rng.normal(0, 0.25) * (x - 0.5) + rng.normal(0, 0.2) * (y - 0.5)
    patches = _blur(rng.normal(size=(_GRID, _GRID, 1)).astype(np.float32), 7)
    picture = colour * (slope[..., None] + 0.5 * patches)
    if rng.random() < 0.35:
        edge = rng.uniform(0.1, 0.9)
        picture = _blur(
            np.where((x > edge)[..., None], picture * _muted(rng, 0.6, 0.9, 0.1), picture), 1.0
        )
    return picture


def _boxes(
    rng: np.random.Generator, picture: Floats, count: int, low: float, high: float
) -> Floats:
    """Add upright rectangles of muted colours: furniture, windows, houses."""
    for _ in range(count):
        left, top = rng.uniform(-0.1, 0.9, 2) * _GRID
        width, height = rng.uniform(0.08, 0.35) * _GRID, rng.uniform(0.15, 0.6) * _GRID
        rows = slice(max(0, int(top)), max(0, int(top + height)))
        columns = slice(max(0, int(left)), max(0, int(left + width)))
        picture[rows, columns] = _muted(rng, low, high, 0.14)
    return picture


def _indoors(rng: np.random.Generator) -> Floats:
    picture = _boxes(rng, _wall(rng) * np.float32(0.7), 6, 0.03, 0.35)
    if rng.random() < 0.6:
        left = int(rng.choice([0.02, 0.70]) * _GRID)
        picture[6:38, left : left + 16] = vector(0.85, 0.88, 0.95)
    return _blur(picture, rng.uniform(2.5, 5))


def _outdoors(rng: np.random.Generator) -> Floats:
    _, y = _axes()
    horizon = rng.uniform(0.35, 0.75)
    sky = vector(0.42, 0.58, 0.82) * rng.uniform(0.7, 1.1) + 0.25 * (y / horizon)[..., None]
    green = vector(0.10, 0.17, 0.045) * _muted(rng, 0.6, 1.5, 0.15)
    leaves = _blur(rng.normal(size=(_GRID, _GRID, 1)).astype(np.float32), 2.2) * 2.4
    ground = green * np.exp(leaves)
    trees = horizon - 0.18 * _blur(rng.normal(size=(_GRID, _GRID, 1)), 6)[..., 0] * 6
    picture = np.where((y > trees)[..., None], ground, sky)
    if rng.random() < 0.4:
        picture = _boxes(rng, picture, 4, 0.12, 0.5)
    return _blur(picture.astype(np.float32), rng.uniform(1.8, 4))


def _bokeh(rng: np.random.Generator) -> Floats:
    x, y = _axes()
    picture = np.ones((_GRID, _GRID, 3), np.float32) * _muted(rng, 0.02, 0.10, 0.15)
    for _ in range(rng.integers(9, 20)):
        cx, cy, radius = *rng.uniform(0, 1, 2), rng.uniform(0.04, 0.11)
        disc = np.clip((radius - np.hypot(x - cx, y - cy)) * 30, 0, 1)[..., None]
        tone = vector(1.0, 0.72, 0.42) if rng.random() < 0.7 else vector(0.6, 0.75, 1.0)
        picture += disc * tone * rng.uniform(0.06, 0.35)
    return _blur(picture, 0.9)


def _sky(rng: np.random.Generator) -> Floats:
    _, y = _axes()
    blue = vector(0.24, 0.42, 0.74) * rng.uniform(0.7, 1.15)
    clouds = _blur(rng.normal(size=(_GRID, _GRID, 1)).astype(np.float32), 6) * 7
    haze = np.clip(0.25 + 0.5 * y[..., None] + 0.35 * clouds, 0, 1)
    return blue + haze * (vector(0.78, 0.80, 0.84) - blue)


_MAKERS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "studio": _studio, "wall": _wall, "indoors": _indoors, "outdoors": _outdoors,
    "bokeh": _bokeh, "sky": _sky,
}  # fmt: skip
