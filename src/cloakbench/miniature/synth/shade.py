"""Light on the visible samples: key with soft shadows, fill, ambient, gloss. Linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloakbench.miniature.synth import head, rays, skin
from cloakbench.miniature.synth import template as tp
from cloakbench.miniature.synth.arrays import Floats, Ints, vector
from cloakbench.miniature.synth.figure import Figure, Neutral, cloth_depth
from cloakbench.miniature.synth.people import Person, Shot

_WRAP = vector(0.34, 0.16, 0.10)  # light that skin carries round the terminator


@dataclass(frozen=True)
class Lamps:
    """Directions towards the lights (3,), and what they add."""

    key: Floats
    fill: Floats
    key_colour: Floats
    fill_colour: Floats
    ambient: Floats


@dataclass(frozen=True)
class Hits:
    """m samples: face (m,) index, weights (m, 3), view direction towards the camera (m, 3)."""

    face: Ints
    weights: Floats
    view: Floats


def lamps(shot: Shot) -> Lamps:
    """The lights of a shot, in camera space."""
    azimuth, elevation = shot.light_angle
    key = _direction(azimuth, elevation)
    fill = _direction(-0.8 * np.sign(azimuth), 0.15)
    strength = np.float32(2.1)
    colour = np.asarray(shot.key, np.float32) * strength
    ambient = np.asarray(shot.ambient, np.float32)
    return Lamps(key, fill, colour, colour * np.float32(shot.fill), ambient)


def _direction(azimuth: float, elevation: float) -> Floats:
    flat = np.cos(elevation)
    return vector(np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(elevation))


def key_visibility(
    scene: object, points: Floats, offset: Floats, key: Floats, count: int
) -> Floats:
    """Share (n,) of a round area light that each point, moved by its `offset`, sees."""
    i = np.arange(count) + 0.5
    ring, turn = 0.22 * np.sqrt(i / count), i * np.pi * (3 - np.sqrt(5))
    side = head.unit(np.cross(key, vector(0, 0, 1)))
    up = np.cross(side, key)
    aims = head.unit(
        key + (ring * np.cos(turn))[:, None] * side + (ring * np.sin(turn))[:, None] * up
    )
    origins = np.repeat((points + offset).astype(np.float32), count, 0)
    directions = np.tile(aims.astype(np.float32), (len(points), 1))
    return 1 - rays.blocked(scene, origins, directions).reshape(-1, count).mean(1)


def _skin_shadow(figure: Figure, scene: object, key: Floats, hits: Hits) -> Floats:
    """Smoothed visibility of the key light, (n,), right at the vertices of hit faces."""
    b = head.base()
    count = len(b.rest)
    used = np.zeros(count, np.float32)
    used[b.faces[hits.face]] = 1
    needed = (b.average @ used > 0) & (figure.normals @ key > -0.25)
    normal, place = figure.normals[needed], figure.points[:count][needed]
    seen = np.zeros(count, np.float32)
    seen[needed] = key_visibility(scene, place, 0.025 * normal, key, 10)
    return b.average @ seen


def colour(
    part: int, person: Person, shot: Shot, figure: Figure, n: Neutral, scene: object, hits: Hits
) -> Floats:
    """Colour (m, 3) of samples on one part: 0 skin, 1 hair, 2 teeth, 3 glasses."""
    if part == 0:
        return skin_mesh(person, shot, figure, n, scene, hits)
    if part == 1:
        return strands(person, shot, figure, n, scene, hits)
    return row_of_teeth(shot, figure, hits) if part == 2 else frame(person, shot, figure, hits)


def skin_mesh(
    person: Person, shot: Shot, figure: Figure, n: Neutral, scene: object, hits: Hits
) -> Floats:
    """Colour (m, 3) of samples on the head and the clothes."""
    b, light = head.base(), lamps(shot)
    shadow = _skin_shadow(figure, scene, light.key, hits)
    masks = [b.lips, b.ears, b.lid, b.upper]
    places = figure.points[: len(n.points)]
    table = np.column_stack([figure.normals, b.rest, *masks, n.paint, shadow, places])
    at = _interpolate(table.astype(np.float32), b.faces[hits.face], hits.weights)
    normal, rest, place = head.unit(at[:, :3]), at[:, 3:6], at[:, 16:19]
    spots = skin.Spots(rest, at[:, 6], at[:, 7], at[:, 8], at[:, 9], *at[:, 10:14].T)
    ambient, shadow, label = at[:, 14], at[:, 15], b.label[hits.face]
    colour, gloss = skin.face(person, spots)
    wrap = np.broadcast_to(_WRAP, colour.shape)
    covered = skin.step(cloth_depth(shot, rest), 0.04)
    dressed = covered > 0
    if dressed.any():
        share = covered[dressed]
        colour[dressed] = skin.blend(colour[dressed], share, skin.cloth(shot, rest[dressed]))
        gloss = gloss * (1 - covered)
    _inner_parts(colour, gloss, label, rest)
    light_in = _diffuse(light, normal, ambient, shadow, wrap)
    out = colour * light_in + _gloss(
        light, normal, hits.view, gloss * (0.3 + 0.7 * shadow), 18, 0.05
    )
    for index, code in enumerate((tp.EYE_L, tp.EYE_R)):
        ball = label == code
        if ball.any():
            out[ball] = _eyeball(person, shot, light, place[ball], figure.eyes[index],
                                 ambient[ball], shadow[ball], hits.view[ball])  # fmt: skip
    return out


def _interpolate(table: Floats, corners: Ints, weights: Floats) -> Floats:
    """Vertex attributes (n, a) at m samples, (m, a)."""
    out = table[corners[:, 0]] * weights[:, :1]
    out += table[corners[:, 1]] * weights[:, 1:2]
    out += table[corners[:, 2]] * weights[:, 2:]
    return out


def _inner_parts(colour: Floats, gloss: Floats, label: Ints, rest: Floats) -> None:
    """Colour the eye sockets, mouth and tongue in place."""
    colour[label == tp.MOUTH] = vector(0.10, 0.028, 0.026)
    colour[label == tp.TONGUE] = vector(0.34, 0.10, 0.10)
    gloss[np.isin(label, (tp.MOUTH, tp.CAVITY))] *= 0.3


def _diffuse(light: Lamps, normal: Floats, ambient: Floats, shadow: Floats, wrap: Floats) -> Floats:
    """Incoming light (m, 3) with wrap-around at the terminator and red-edged shadows."""
    facing = (normal @ light.key)[:, None]
    key = np.clip((facing + wrap) / (1 + wrap), 0, None) * shadow[:, None] ** (1 - 0.6 * wrap)
    fill = np.clip(normal @ light.fill * 0.7 + 0.3, 0, None) * ambient
    sky = (0.72 + 0.28 * normal[:, 2]) * ambient**1.15
    return key * light.key_colour + fill[:, None] * light.fill_colour + sky[:, None] * light.ambient


def _gloss(
    light: Lamps, normal: Floats, view: Floats, amount: Floats, power: float, base: float
) -> Floats:
    """Blinn highlights of both lamps, (m, 3)."""
    edge = base + (1 - base) * (1 - np.clip(np.einsum("mc,mc->m", normal, view), 0, 1)) ** 5
    total = np.zeros_like(normal)
    for direction, colour in ((light.key, light.key_colour), (light.fill, light.fill_colour)):
        half = head.unit(view + direction)
        peak = np.clip(np.einsum("mc,mc->m", normal, half), 0, None) ** power
        front = np.clip(normal @ direction * 4, 0, 1)
        total += (edge * amount * front * peak * (power + 8) / 25)[:, None] * colour
    return total


def _eyeball(
    person: Person, shot: Shot, light: Lamps, place: Floats, centre: Floats, ambient: Floats,
    shadow: Floats, view: Floats,
) -> Floats:  # fmt: skip
    """A wet sphere with an iris; the cornea's steeper curve carries the highlight."""
    local = head.unit(place - centre)
    turn = head.rotation(shot.yaw, shot.pitch, shot.roll)
    across, up = shot.gaze
    gaze = turn @ head.unit(vector(np.sin(across), -np.cos(across), np.tan(up)))
    side = np.clip((local @ turn[:, 0] - gaze @ turn[:, 0]) * 1.2, -1, 1)
    colour = skin.eye(person, local, gaze, side)
    sky = np.clip(0.15 + 1.1 * ambient, 0, 1)
    flat = head.unit(0.5 * local + 0.5 * gaze)
    light_in = _diffuse(light, flat, sky, 0.35 + 0.65 * shadow, np.full_like(place, 0.3))
    cornea = head.unit(local - np.float32(0.55) * gaze)
    spark = 0.9 * np.clip(local @ gaze, 0, 1) ** 4 * (0.35 + 0.65 * shadow)
    return colour * light_in * np.float32(0.9) + _gloss(light, cornea, view, spark, 260, 0.04)


def strands(
    person: Person, shot: Shot, figure: Figure, n: Neutral, scene: object, hits: Hits
) -> Floats:
    """Colour (m, 3) of samples on hair."""
    assert n.strands is not None
    light = lamps(shot)
    depth = np.repeat(n.strands.depth.ravel(), 2)
    tone = np.repeat(n.strands.tone, 2 * n.strands.points.shape[1])
    edge = np.tile(vector(-1, 1), len(figure.knots))
    corners = figure.faces[hits.face] - len(n.points)
    shadow = np.zeros(len(figure.knots), np.float32)
    used = np.unique(corners // 2)
    shadow[used] = key_visibility(scene, figure.knots[used], 0.05 * light.key, light.key, 3)
    shadow = np.repeat(shadow, 2)
    table = np.column_stack([figure.hair_normals, figure.tangents, shadow, depth, tone, edge])
    at = _interpolate(table.astype(np.float32), corners, hits.weights)
    normal, tangent = head.unit(at[:, :3]), head.unit(at[:, 3:6])
    shadow, depth, tone, edge = at[:, 6:].T
    facing = np.einsum("mc,mc->m", normal, hits.view)
    normal = np.where(facing[:, None] < 0, -normal, normal)
    stripes = 1 + 0.14 * np.cos(5.5 * edge + 40 * tone)
    colour = np.asarray(person.hair, np.float32) * (tone * stripes)[:, None]
    return _fibre(light, normal, tangent, hits.view, colour, shadow, depth)


def _fibre(
    light: Lamps,
    normal: Floats,
    tangent: Floats,
    view: Floats,
    colour: Floats,
    shadow: Floats,
    depth: Floats,
) -> Floats:
    """Kajiya-Kay: light scatters off cylinders, with a white and a coloured highlight."""
    along = tangent @ light.key
    scatter = 0.45 * np.sqrt(np.clip(1 - along**2, 0, 1)) + 0.55 * np.clip(normal @ light.key, 0, 1)
    key = (scatter * shadow * (0.35 + 0.65 * depth))[:, None] * light.key_colour
    fill = (np.clip(normal @ light.fill * 0.6 + 0.4, 0, 1) * depth)[:, None] * light.fill_colour
    sky = ((0.75 + 0.25 * normal[:, 2]) * depth)[:, None] * light.ambient
    half = head.unit(view + light.key)
    sine = np.sqrt(np.clip(1 - np.einsum("mc,mc->m", tangent, half) ** 2, 0, 1))
    lit = shadow * depth * np.clip(normal @ light.key + 0.2, 0, 1)
    white = 0.022 * sine**70 * lit
    tinted = 0.35 * sine**14 * lit
    return (
        colour * (key + fill + sky) + (white[:, None] + tinted[:, None] * colour) * light.key_colour
    )


def frame(person: Person, shot: Shot, figure: Figure, hits: Hits) -> Floats:
    """Colour (m, 3) of samples on glasses."""
    light = lamps(shot)
    a, b, c = (figure.points[figure.faces[hits.face, i]] for i in range(3))
    normal = head.unit(np.cross(b - a, c - a))
    facing = np.einsum("mc,mc->m", normal, hits.view)
    normal = np.where(facing[:, None] < 0, -normal, normal)
    ones = np.ones(len(normal), np.float32)
    light_in = _diffuse(light, normal, 0.8 * ones, ones, np.zeros_like(normal))
    return np.asarray(person.frame, np.float32) * light_in + _gloss(
        light, normal, hits.view, ones, 40, 0.04
    )


def row_of_teeth(shot: Shot, figure: Figure, hits: Hits) -> Floats:
    """Colour (m, 3) of samples on the teeth, darker towards the sides."""
    light = lamps(shot)
    turn = head.rotation(shot.yaw, shot.pitch, shot.roll)
    start = figure.skin + figure.hair
    middle = figure.points[figure.faces[start : start + figure.teeth]].mean((0, 1))
    side = (figure.points[figure.faces[hits.face, 0]] - middle) @ turn[:, 0] / 0.4
    level = (0.75 - 0.45 * np.clip(side**2, 0, 1)).astype(np.float32)
    front = np.tile(-turn[:, 1], (len(level), 1))
    light_in = _diffuse(light, front, 0.7 * level, 0.5 * level, np.zeros_like(front))
    return vector(0.80, 0.72, 0.58) * light_in
