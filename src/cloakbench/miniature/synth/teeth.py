"""The upper row of teeth, a bent strip behind the upper lip, seen when the mouth opens."""

from __future__ import annotations

import numpy as np

from cloakbench.miniature.synth import head
from cloakbench.miniature.synth.arrays import Floats, Ints

_COLUMNS = 25


def mesh(points: Floats) -> tuple[Floats, Ints]:
    """Vertices and faces of the strip in the neutral head `points` (n, 3)."""
    b = head.base()
    lip = (b.lips > 0.5) & (b.rest[:, 2] > -1.10)
    shift = (points[lip] - b.rest[lip]).mean(0)
    angle = np.linspace(-1.25, 1.25, _COLUMNS)
    x, y = 0.40 * np.sin(angle), -0.37 + 0.42 * (1 - np.cos(angle))
    rows = [np.stack([x, y, np.full_like(x, z)], 1) for z in (-0.92, -1.20)]
    i = np.arange(_COLUMNS - 1)
    upper = np.stack([i, i + 1, i + _COLUMNS], 1)
    lower = np.stack([i + 1, i + _COLUMNS + 1, i + _COLUMNS], 1)
    strip = np.concatenate(rows) + shift
    return strip.astype(np.float32), np.concatenate([upper, lower]).astype(np.int32)
