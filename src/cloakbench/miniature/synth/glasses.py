"""Spectacle frames as bent tubes in front of the eyes."""

from __future__ import annotations

import numpy as np

from cloakbench.miniature.synth import head
from cloakbench.miniature.synth.arrays import Floats, Ints
from cloakbench.miniature.synth.people import Person

# half width, half height, exponent of the superellipse, tube radius
_RIMS = {"round": (0.40, 0.36, 2.0, 0.028), "square": (0.42, 0.29, 4.0, 0.042),
         "wide": (0.45, 0.33, 2.7, 0.035)}  # fmt: skip


def mesh(person: Person, points: Floats) -> tuple[Floats, Ints]:
    """Vertices and faces of the frame that sits on the unposed head `points` (n, 3)."""
    b = head.base()
    half_width, half_height, power, thick = _RIMS[person.glasses]
    nose = points[(np.abs(b.rest[:, 0]) < 0.25) & (np.abs(b.rest[:, 2] + 0.12) < 0.12), 1].min()
    brow = points[(np.abs(b.rest[:, 0]) < 0.9) & (np.abs(b.rest[:, 2]) < 0.3), 1]
    front = min(nose + 0.02, np.quantile(brow[brow < 0.6], 0.05)) - 0.07
    eye = np.abs(np.mean([points[i].mean(0)[0] * s for i, s in zip(b.eyes, (1, -1), strict=True)]))
    centre = max(float(eye), half_width + 0.10)
    beside = (np.abs(b.rest[:, 1] - 0.9) < 0.15) & (np.abs(b.rest[:, 2] - 0.15) < 0.2)
    side = float(np.quantile(np.abs(points[beside, 0]), 0.9))
    tubes = []
    for sign in (-1, 1):
        tubes.append(_tube(_rim(sign * centre, half_width, half_height, power, front), thick, True))
        hinge = [sign * (centre + half_width), front + 0.06, 0.08]
        temple = [hinge, [sign * (side + 0.05), front + 0.6, 0.12],
                  [sign * (side + 0.03), 1.5, 0.12]]  # fmt: skip
        tubes.append(_tube(np.array(temple), thick, False))
    gap = centre - half_width
    bridge = np.array([[-gap, front, 0.06], [0, front - 0.05, 0.12], [gap, front, 0.06]])
    tubes.append(_tube(bridge, thick, False))
    return _merge(tubes)


def _rim(x: float, half_width: float, half_height: float, power: float, front: float) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    dx = np.sign(cos) * np.abs(cos) ** (2 / power) * half_width
    dz = np.sign(sin) * np.abs(sin) ** (2 / power) * half_height - 0.05
    bend = 0.10 * np.maximum(0, np.abs(x + dx) - 0.35) ** 2
    return np.stack([x + dx, front + bend, dz], 1).astype(np.float32)


def _tube(path: Floats, radius: float, closed: bool, sides: int = 6) -> tuple[Floats, Ints]:
    """A tube around a polyline (m, 3)."""
    count = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangent = head.unit(tangent)
    first = head.unit(np.cross(tangent, [0.3, 1, 0.1] if closed else [0, 0.2, 1]))
    second = np.cross(tangent, first)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = first[:, None] * np.cos(angle)[:, None] + second[:, None] * np.sin(angle)[:, None]
    points = (path[:, None] + radius * ring).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(count if closed else count - 1), np.arange(sides), indexing="ij")
    following, beside = (i + 1) % count, (j + 1) % sides
    a, b, c, d = (x.ravel() for x in (i * sides + j, i * sides + beside, following * sides + j,
                                      following * sides + beside))  # fmt: skip
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return points.astype(np.float32), faces.astype(np.int32)


def _merge(tubes: list[tuple[Floats, Ints]]) -> tuple[Floats, Ints]:
    offsets = np.cumsum([0] + [len(points) for points, _ in tubes[:-1]])
    faces = [faces + offset for (_, faces), offset in zip(tubes, offsets, strict=True)]
    return np.concatenate([points for points, _ in tubes]), np.concatenate(faces).astype(np.int32)
