"""From a person and a shot to the light that reaches the camera."""

from __future__ import annotations

import numpy as np

from cloakbench.miniature.synth import figure as fg
from cloakbench.miniature.synth import head, rays, shade
from cloakbench.miniature.synth.arrays import Floats, vector
from cloakbench.miniature.synth.backdrop import backdrop
from cloakbench.miniature.synth.people import Person, Shot

ROOMY = {"afro": 0.86, "bun": 0.92, "spiky": 0.95, "curly": 0.95}  # hair that needs space above


def render(person: Person, shot: Shot, size: int = 128) -> Floats:
    """Linear light (k size, k size, 3) with white at 1, k rays across a pixel; `size` from 32 to
    512 pixels.
    """
    if not 32 <= size <= 512:
        raise ValueError(f"size must lie in 32..512 pixels, got {size}")
    factor = 3 if size <= 160 else 2
    neutral, figure = fg.neutral(person), fg.build(person, shot)
    scene = rays.make_scene(figure.points, figure.faces)
    origin, directions = _camera(person, shot, neutral, size * factor)
    origins = np.broadcast_to(origin, directions.shape).copy()
    face, weights = rays.first_hit(scene, origins, directions)
    picture = backdrop(shot, size * factor).reshape(-1, 3)
    view = -directions
    ends = np.cumsum([figure.skin, figure.hair, figure.teeth])
    part = np.where(face < 0, -1, np.searchsorted(ends, face, side="right"))
    for index in np.unique(part[part >= 0]):
        own = part == index
        hits = shade.Hits(face[own], weights[own], view[own])
        picture[own] = shade.colour(index, person, shot, figure, neutral, scene, hits)
    lit = picture * np.where(face >= 0, _exposure(person, shot), np.float32(1))[:, None]
    return lit.reshape(size * factor, size * factor, 3)


def _exposure(person: Person, shot: Shot) -> np.float32:
    """Like a camera's metering, half way towards equal faces."""
    return np.float32(shot.exposure * (0.34 / np.mean(person.skin)) ** 0.35 * 0.62)


def _camera(person: Person, shot: Shot, neutral: fg.Neutral, pixels: int) -> tuple[Floats, Floats]:
    """Position (3,) and unit directions (pixels², 3) of the primary rays, row by row."""
    chin, crown = neutral.span
    height = (crown - chin) / (shot.fill_fraction * ROOMY.get(person.hair_style, 1.0))
    middle = np.array([[0, 0.5, chin + 0.52 * (crown - chin)]], np.float32)
    target = head.pose(middle, np.ones(1, np.float32), shot)[0]
    target = target + height * vector(-shot.shift[0], 0, shot.shift[1])
    line = ((np.arange(pixels, dtype=np.float32) + 0.5) / pixels - 0.5) * np.float32(height)
    up, right = np.meshgrid(-line, line, indexing="ij")
    towards = np.stack([right, np.full_like(up, shot.distance), up], -1).reshape(-1, 3)
    return target - vector(0, shot.distance, 0), head.unit(towards)
