"""Hair and beards as ribbons grown from the skin.

A strand starts on the skin, leaves it along the comb direction, bends under gravity, and is pushed
out of the head wherever it would enter. The head is known as a radius over directions from its
centre, which also covers the neck and shoulders that long hair falls on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from cloakbench.miniature.synth import head, rays
from cloakbench.miniature.synth.arrays import Floats, Ints, vector
from cloakbench.miniature.synth.people import Person
from cloakbench.miniature.synth.styles import BEARD_LENGTH, BUN, STYLES, Style

CENTRE = np.array([0.0, 1.25, 0.3], np.float32)
CROWN = np.array([0.0, 2.1, 1.9], np.float32)
KNOTS = 10  # points per strand


@dataclass(frozen=True)
class Strands:
    """s ribbons of KNOTS points. points, normal: (s, k, 3). width: (s, k). tone: (s,) about 1.

    depth: (s, k) light that reaches the strand among its neighbours, in [0,1].
    root: (s, 3) vertex indices and share: (s, 3) their weights, to follow the skin.
    """

    points: Floats
    normal: Floats
    width: Floats
    tone: Floats
    depth: Floats
    root: Ints
    share: Floats


def scalp_mask(person: Person) -> Floats:
    """Where head hair grows, (n,) in [0,1], on the smoothed mesh."""
    b = head.base()
    x, y, z = np.abs(b.rest[:, 0]), b.rest[:, 1], b.rest[:, 2]
    top = person.hairline
    recede = 0.3 * max(0.0, top - 1.15) if person.gender == "man" else 0.0
    side = np.interp(y, [0.0, 0.45, 0.85, 1.0, 1.12, 1.5, 1.95, 2.1, 2.4],
                     [top, top - 0.02, 0.55, 0.0, -0.42, -0.45, -0.5, -1.1, -1.35])  # fmt: skip
    temple = recede * np.exp(-(((x - 0.75) / 0.25) ** 2)) * (y < 0.9)
    edge = z - side - temple + 0.05 * np.sin(9 * b.rest[:, 0]) * (y < 0.6)
    mask = np.clip(edge / 0.12 + 0.5, 0, 1) * (1 - np.clip(b.ears * 1.6, 0, 1)) * (z > -1.6)
    if person.hair_style == "receding":
        bald = np.clip((z - 0.75 - 0.28 * (y - 1.0)) / 0.25, 0, 1) * (y < 2.5)
        mask = mask * (1 - bald)
    return (mask * (b.lid > 0.5)).astype(np.float32)


def beard_mask(person: Person) -> Floats:
    """Where the beard grows, (n,) in [0,1], on the smoothed mesh."""
    b = head.base()
    x, y, z = np.abs(b.rest[:, 0]), b.rest[:, 1], b.rest[:, 2]
    moustache = _soft(0.52 - x, 0.1) * _soft(z + 1.02 + 0.15 * x, 0.06) * _soft(-0.72 - z, 0.06)
    chin = _soft(0.50 - x, 0.12) * _soft(-1.22 - z, 0.08)
    line = np.interp(x, [0.3, 0.55, 0.95, 1.1], [-1.2, -1.05, -0.85, 0.0])
    jaw = _soft(line - z, 0.12)
    ring = _soft(0.62 - x, 0.08) * _soft(x - 0.36, 0.08) * _soft(-0.85 - z, 0.1)
    part = {
        "none": 0 * x,
        "moustache": moustache,
        "goatee": np.maximum(np.maximum(moustache, chin), ring),
    }
    mask = part.get(person.beard, np.maximum(jaw, moustache))
    neck = _soft(z + 2.0 - 0.25 * np.maximum(y, 0), 0.15) * (y < 1.15)
    return (mask * neck * (1 - np.clip(2 * b.lips, 0, 1)) * (1 - b.ears)).astype(np.float32)


def _soft(value: Floats, width: float) -> Floats:
    t = np.clip(value / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def grow(person: Person, points: Floats, normals: Floats) -> Strands | None:
    """All strands of a person on the neutral head `points` (n, 3); `None` without any."""
    rng = np.random.default_rng([person.seed, 3])
    radius = _radius_map(points)
    parts = []
    if person.hair_style in STYLES:
        parts.append(_grow_hair(person, points, normals, radius, rng))
    if person.hair_style in BUN:
        parts.append(_knot(person, rng))
    if person.beard in BEARD_LENGTH:
        parts.append(_grow_beard(person, points, normals, rng))
    if not parts:
        return None
    fields = Strands.__dataclass_fields__
    return Strands(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in fields})


def _radius_map(points: Floats) -> Floats:
    """Radius (48, 96) of the head over polar angle and azimuth around `CENTRE`."""
    polar, azimuth = np.meshgrid(
        np.linspace(0.02, np.pi, 48), np.linspace(-np.pi, np.pi, 96), indexing="ij"
    )
    out = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], -1
    )
    out = out.reshape(-1, 3).astype(np.float32)
    b = head.base()
    scene = rays.make_scene(points, b.faces[b.label == 0])
    radius = rays.distance(scene, np.broadcast_to(CENTRE, out.shape).copy(), out)
    # Rays that leave through the neck find nothing to stay outside of; the odd one that slips
    # between two triangles takes its row's usual radius.
    radius = np.where(radius < 6, radius, np.nan).reshape(48, 96)
    usual = np.nanmedian(radius[:32], axis=1, keepdims=True)
    radius[:32] = np.where(np.isnan(radius[:32]), usual, radius[:32])
    return gaussian_filter(np.nan_to_num(radius, nan=0.5), 0.7, mode="nearest")


def _radius(radius: Floats, offset: Floats) -> Floats:
    """The map's radius in the direction of `offset` (m, 3)."""
    length = np.maximum(np.linalg.norm(offset, axis=1), 1e-6)
    polar = np.arccos(np.clip(offset[:, 2] / length, -1, 1)) * (47 / np.pi)
    azimuth = (np.arctan2(offset[:, 1], offset[:, 0]) + np.pi) * (95 / (2 * np.pi))
    return map_coordinates(radius, [polar, azimuth], order=1, mode="nearest")


def _roots(
    mask: Floats, count: int, rng: np.random.Generator, points: Floats
) -> tuple[Ints, Floats]:
    """`count` random places on the masked skin, evenly over its area."""
    b = head.base()
    faces = b.faces[b.label == 0]
    a, e, f = (points[faces[:, i]] for i in range(3))
    weight = np.linalg.norm(np.cross(e - a, f - a), axis=1) * mask[faces].mean(1)
    steps = (np.arange(count) + rng.random(count)) / count * weight.sum()
    chosen = faces[np.minimum(np.searchsorted(np.cumsum(weight), steps), len(faces) - 1)]
    uv = rng.random((count, 2))
    uv = np.where(uv.sum(1, keepdims=True) > 1, 1 - uv, uv)
    return chosen, np.column_stack([1 - uv.sum(1), uv]).astype(np.float32)


def _at(values: Floats, root: Ints, share: Floats) -> Floats:
    return np.einsum("sk,skc->sc", share, values[root])


def _comb(style: Style, person: Person, at: Floats, normal: Floats) -> Floats:
    """Unit directions (s, 3) along the skin in which strands leave it."""
    x, y = at[:, 0], at[:, 1]
    if style.comb == "knot":
        aim = np.array(BUN[person.hair_style], np.float32) - at
    elif style.comb == "back":
        aim = np.stack([0.25 * x, np.ones_like(x), 0.1 - 0.4 * np.abs(x)], 1)
    elif style.comb == "part":
        line = 0.45 * person.part
        side = np.tanh((x - line) / 0.08)
        aim = np.stack([side, 0.35 + 0 * x, -0.25 - 0.4 * np.abs(x)], 1)
        aim[y > 2.3] = at[y > 2.3] - CROWN
    else:
        swirl = np.cross(at - CROWN, [0, 0, 1.0]) * 0.35 * (1 if person.part > 0 else -1)
        aim = at - CROWN + swirl
    aim = aim - normal * np.einsum("sc,sc->s", aim, normal)[:, None]
    return head.unit(aim.astype(np.float32))


def _wander(at: Floats, rng: np.random.Generator) -> Floats:
    """A smooth random vector field (s, 3) over root positions, of unit size."""
    waves = rng.normal(0, 4, (3, 3, 5))
    phase = rng.uniform(0, 2 * np.pi, (3, 5))
    return np.stack([np.cos(at @ waves[i] + phase[i]).sum(1) for i in range(3)], 1) * 0.6


def _grow_hair(
    person: Person, points: Floats, normals: Floats, radius: Floats, rng: np.random.Generator
) -> Strands:
    style, b = STYLES[person.hair_style], head.base()
    root, share = _roots(scalp_mask(person), style.count, rng, points)
    start, normal = _at(points, root, share), head.unit(_at(normals, root, share))
    rest = _at(b.rest, root, share)
    length = _lengths(style, rest) * np.exp(rng.normal(0, 0.10, len(rest)))
    fringe = person.fringe & (rest[:, 1] < 0.75) & (np.abs(rest[:, 0]) < 0.95) & (rest[:, 2] > 0.7)
    length = np.where(fringe, 0.55 + 0.9 * np.maximum(0, rest[:, 1] + 0.1), length)
    comb = _comb(style, person, start, normal)
    forward = np.array([0, -1, -0.5]) + 0.25 * rest * [1, 0, 0]
    comb[fringe] = head.unit(forward[fringe].astype(np.float32))
    wild = style.wild * (_wander(rest, rng) + 0.6 * rng.normal(size=rest.shape))
    direction = head.unit((comb + style.lift * normal + wild).astype(np.float32))
    layer = rng.random(len(rest)) ** 0.7
    path = _march(style, start, direction, length, layer, radius, ~fringe, person)
    return _ribbons(style, path, layer, root, share, rng)


def _lengths(style: Style, rest: Floats) -> Floats:
    """Strand length by region: top, sides, back of the head."""
    top = np.clip((rest[:, 2] - 0.75) / 0.5, 0, 1)
    back = np.clip((rest[:, 1] - 1.6) / 0.6, 0, 1)
    low = style.side * (1 - back) + style.back * back
    return low * (1 - top) + style.top * top


def _march(
    style: Style, start: Floats, direction: Floats, length: Floats, layer: Floats, radius: Floats,
    avoids: np.ndarray, person: Person,
) -> Floats:  # fmt: skip
    """Follow strands outward, in short steps first, (s, KNOTS, 3)."""
    knot = np.array(BUN.get(person.hair_style, (0, 0, 0)), np.float32)
    if style.comb == "knot":
        length = 1.15 * np.linalg.norm(knot - start, axis=1)
    steps = np.diff(np.linspace(0, 1, KNOTS) ** 1.5)
    path, point = [start], start
    for i, step in enumerate(steps, start=1):
        if style.comb == "knot":
            direction = direction + 0.8 * head.unit(knot - point)
        weight = np.where(style.hug & (point[:, 2] < 0.5), 3, 1) * style.gravity
        fall = weight[:, None] * vector(0, 0, -0.2 - 0.2 * i)
        moved = point + head.unit(direction + fall) * (step * length)[:, None]
        if style.comb in ("part", "back"):
            moved = _off_face(moved, avoids, person.hairline)
        moved = _float(style, moved, radius, layer * min(1.0, 0.2 + 0.2 * i))
        direction, point = head.unit(moved - point), moved
        path.append(point)
    return np.stack(path, 1)


def _float(style: Style, point: Floats, radius: Floats, layer: Floats) -> Floats:
    """Keep points outside the head, and close to it where the style hugs the skull."""
    offset = point - CENTRE
    reach = np.maximum(np.linalg.norm(offset, axis=1), 1e-6)
    least = _radius(radius, offset) + style.volume * layer + 0.02
    most = np.where(style.hug & (point[:, 2] > 0.2), least + 0.06, np.inf)
    return (CENTRE + offset * (np.clip(reach, least, most) / reach)[:, None]).astype(np.float32)


def _off_face(point: Floats, avoids: np.ndarray, hairline: float) -> Floats:
    """Push strands sideways and back out of the oval of the face."""
    x, y, z = point.T
    edge = np.interp(
        z, [-3.0, -1.8, 0.0, hairline - 0.1, hairline + 0.05], [1.1, 1.0, 1.05, 0.85, 0]
    )
    inside = avoids & (y < 0.95) & (np.abs(x) < edge)
    push = np.where(inside, np.minimum(0.30, edge - np.abs(x)), 0)
    side = np.where(x >= 0, 1, -1)
    return point + np.stack([side * push, 0.6 * push, 0 * push], 1)


def _ribbons(
    style: Style, path: Floats, layer: Floats, root: Ints, share: Floats, rng: np.random.Generator
) -> Strands:
    """Add curls, widths and shading attributes to bare paths (s, k, 3)."""
    count, knots = path.shape[:2]
    t = np.linspace(0, 1, knots, dtype=np.float32)
    outward = head.unit(path - CENTRE)
    tangent = head.unit(np.gradient(path, axis=1))
    across = head.unit(np.cross(tangent, outward))
    phase = rng.uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi * style.turns * t
    swing = style.curl * np.minimum(1, 2 * t)
    path = path + across * (swing * np.cos(phase))[..., None]
    path = path + outward * (0.6 * swing * np.sin(phase))[..., None]
    width = style.width * np.interp(t, [0, 0.2, 0.75, 1], [0.7, 1, 0.85, 0.2])
    twist = rng.normal(0, 0.35 + 2 * style.curl, (count, 1, 1))
    depth = 0.30 + 0.70 * layer[:, None] * np.minimum(1, 0.45 + 1.2 * t)
    return Strands(
        points=path.astype(np.float32),
        normal=head.unit(outward + twist * across).astype(np.float32),
        width=np.tile(width, (count, 1)).astype(np.float32),
        tone=np.exp(rng.normal(0, 0.16, count)).astype(np.float32),
        depth=depth.astype(np.float32), root=root, share=share,
    )  # fmt: skip


def _knot(person: Person, rng: np.random.Generator) -> Strands:
    """The ball of a bun, or the tail of a ponytail, tied to the crown's vertex."""
    count, centre = 260, np.array(BUN[person.hair_style])
    nearest = np.argmin(np.linalg.norm(head.base().rest - centre, axis=1))
    t = np.linspace(0, 1, KNOTS)
    if person.hair_style == "bun":
        axis = head.unit(rng.normal(size=(count, 3)))
        other = head.unit(np.cross(axis, rng.normal(size=(count, 3))))
        angle = (t * 2.6)[None, :, None]
        size = 0.62 * np.exp(rng.normal(0, 0.05, (count, 1, 1)))
        path = centre + size * (
            other[:, None] * np.cos(angle) + np.cross(axis, other)[:, None] * np.sin(angle)
        )
    else:
        spread = rng.normal(0, 0.16, (count, 1, 3))
        fall = np.stack([0 * t, 0.9 * np.sqrt(t) - 0.3 * t, 0.35 * np.sin(4 * t) - 3.4 * t**1.3], 1)
        path = centre + fall + spread * (0.5 + 1.2 * t[:, None])
    layer = np.clip(rng.random(count) + 0.3, 0, 1)
    root = np.full((count, 3), nearest, np.int32)
    share = np.full((count, 3), 1 / 3, np.float32)
    return _ribbons(STYLES["bun"], path.astype(np.float32), layer, root, share, rng)


def _grow_beard(
    person: Person, points: Floats, normals: Floats, rng: np.random.Generator
) -> Strands:
    length = BEARD_LENGTH[person.beard] * np.exp(rng.normal(0, 0.15))
    root, share = _roots(beard_mask(person), 1100 if "beard" in person.beard else 380, rng, points)
    start, normal = _at(points, root, share), head.unit(_at(normals, root, share))
    rest = _at(head.base().rest, root, share)
    lip = (rest[:, 2] > -1.05) & (np.abs(rest[:, 0]) < 0.55)
    down = np.stack([np.where(lip, 1.6, 0.1) * rest[:, 0], -0.1 + 0 * lip, -1.0 + 0 * lip], 1)
    wild = 0.25 * rng.normal(size=rest.shape) + 0.2 * _wander(rest, rng)
    direction = head.unit((down + 0.55 * normal + wild).astype(np.float32))
    size = length * np.where(lip, 0.6, 1) * np.exp(rng.normal(0, 0.2, len(rest)))
    t = np.linspace(0, 1, KNOTS)[None, :, None]
    sag = np.array([0, 0.1, -0.5]) * t**2
    path = start[:, None] + (direction[:, None] * t + sag) * size[:, None, None]
    style = Style(0, 0, 0, "out", width=0.05, curl=0.02, turns=1.0)
    return _ribbons(style, path.astype(np.float32), rng.random(len(rest)), root, share, rng)
