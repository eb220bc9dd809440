"""Albedo of skin, eyes, mouth and clothes as functions of place on the mean head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from cloakbench.miniature.synth.arrays import Floats, vector
from cloakbench.miniature.synth.figure import cloth_depth
from cloakbench.miniature.synth.people import Person, Shot


@dataclass(frozen=True)
class Spots:
    """Attributes of m samples on the skin mesh.

    rest: (m, 3) place on the mean head. lips, ears, scalp, beard: (m,) masks in [0,1].
    lid: (m,) distance from the lid's rim. upper: (m,) 1 above the eye's corners.
    low, high: (m,) smooth noises about 0.
    """

    rest: Floats
    lips: Floats
    ears: Floats
    lid: Floats
    upper: Floats
    scalp: Floats
    beard: Floats
    low: Floats
    high: Floats


def grain(at: Floats, frequency: float) -> Floats:
    """Smooth noise (m,) of standard deviation about 0.35, repeating every 64 cells per axis."""
    cells = np.mod(at.T * np.float32(frequency) + np.float32(512), 64)
    return map_coordinates(_LATTICE, cells, order=1, mode="grid-wrap")


_LATTICE = np.random.default_rng(0).uniform(-1, 1, (64, 64, 64)).astype(np.float32)


def bump(value: Floats, width: float) -> Floats:
    """A bell of height 1 over `value` = 0."""
    return np.exp(-((value / np.float32(width)) ** 2))


def step(value: Floats, width: float) -> Floats:
    """0 to 1 smoothly around `value` = 0."""
    t = np.clip(value / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def blend(colour: Floats, share: Floats, other: Floats) -> Floats:
    """Mix (m, 3) towards `other` (3,) or (m, 3) by `share` (m,)."""
    return colour + share[:, None] * (other - colour)


def face(person: Person, s: Spots) -> tuple[Floats, Floats]:
    """Albedo (m, 3) and gloss (m,) of bare skin with brows, stubble, make-up and scalp."""
    x, y, z = s.rest.T
    x, front = np.abs(x), step(0.75 - y, 0.3)
    skin = np.asarray(person.skin, np.float32)
    fine = grain(s.rest, 16)
    colour = skin * (1 + 0.07 * s.low + 0.03 * s.high + 0.035 * fine)[:, None]
    colour *= _flush(person, x, y, z, s, front)
    colour *= (1 - front * _wrinkles(person, s.rest))[:, None]
    colour = blend(colour, front * _freckles(person, s), skin * [0.55, 0.42, 0.35])
    for mole_x, mole_z in person.moles:
        spot = bump(np.hypot(s.rest[:, 0] - mole_x, z - mole_z), 0.035) * front
        colour = blend(colour, 0.8 * spot, skin * np.float32(0.25))
    lips = s.lips * (1 - 0.12 * bump(z + 1.135, 0.03))
    colour = blend(colour, lips, np.asarray(person.lips, np.float32))
    colour = _eyelids(person, colour, s, front)
    ink = np.asarray(person.hair, np.float32) * np.float32(0.75)
    colour = blend(colour, _brows(person, s) * front, ink * np.float32(0.65))
    colour = blend(colour, _stubble(person, s, fine), ink)
    colour = blend(colour, _scalp(person, s, fine), ink * np.float32(0.6))
    return colour, 0.6 + 0.5 * s.lips + 0.25 * bump(x, 0.25) * front


def _flush(person: Person, x: Floats, y: Floats, z: Floats, s: Spots, front: Floats) -> Floats:
    """Multiplier (m, 3): red cheeks, nose and ears, paler brow, shade under the eyes."""
    cheeks = np.exp(-((x - 0.62) ** 2 + (z + 0.62) ** 2) / 0.13) * front
    nose = np.exp(-(x**2 / 0.05 + (z + 0.62) ** 2 / 0.06)) * front
    red = np.maximum(np.maximum(cheeks, nose), 0.8 * s.ears) * (0.6 + 0.5 * s.low)
    red = red + 0.6 * person.makeup * cheeks
    under = np.exp(-((x - 0.5) ** 2 / 0.07 + (z + 0.30) ** 2 / 0.012)) * front
    shade = 0.06 + 0.16 * person.age
    return 1 + np.stack([0.09 * red - shade * under, -0.10 * red - 1.1 * shade * under,
                         -0.10 * red - 0.9 * shade * under], 1)  # fmt: skip


def _wrinkles(person: Person, rest: Floats) -> Floats:
    """Share of light lost in forehead lines, nasolabial folds, crow's feet, (m,)."""
    x, z = np.abs(rest[:, 0]), rest[:, 2]
    wave = z + 0.05 * np.cos(3.2 * rest[:, 0] + person.seed % 7)
    forehead = bump(np.mod(wave, 0.15) - 0.075, 0.024) * step(0.72 - x, 0.4) * bump(z - 0.75, 0.2)
    fold_x = np.interp(z, [-1.45, -1.1, -0.72, -0.6], [0.66, 0.60, 0.40, 0.36])
    fold = bump(x - fold_x, 0.045) * step(z + 1.4, 0.25) * step(-0.62 - z, 0.12)
    angle = np.arctan2(z - 0.02, x - 0.72)
    crow = bump(np.mod(angle, 0.36) - 0.18, 0.07) * np.exp(
        -((np.hypot(x - 1.0, z - 0.02) / 0.13) ** 2)
    )
    age = np.float32(max(0.0, person.age - 0.25) / 0.75)
    return 0.30 * age * forehead + (0.07 + 0.30 * age) * fold + 0.28 * age * crow


def _freckles(person: Person, s: Spots) -> Floats:
    if person.freckles == 0:
        return np.zeros(len(s.rest), np.float32)
    x, z = np.abs(s.rest[:, 0]), s.rest[:, 2]
    where = np.exp(-((x / 0.85) ** 2) - ((z + 0.45) / 0.4) ** 2)
    return person.freckles * 0.5 * where * step(grain(s.rest + person.seed % 11, 14) - 0.3, 0.3)


def _eyelids(person: Person, colour: Floats, s: Spots, front: Floats) -> Floats:
    """Lash line, lashes' shade and eye shadow."""
    paint = person.makeup
    shadow = 0.55 * paint * bump(s.lid, 0.20) * s.upper
    tint = _TINTS[person.seed % len(_TINTS)] * np.float32(np.mean(person.skin) + 0.05)
    colour = blend(colour, shadow * front, tint)
    line = s.upper * bump(s.lid, 0.032 + 0.03 * paint)
    line += (1 - s.upper) * (0.2 + 0.4 * paint) * bump(s.lid, 0.025)
    return blend(colour, (0.75 + 0.25 * paint) * line, vector(0.02, 0.014, 0.012))


_TINTS = np.array([[0.55, 0.35, 0.30], [0.40, 0.30, 0.38], [0.30, 0.30, 0.36], [0.62, 0.40, 0.28]],
                  np.float32)  # fmt: skip


def _brows(person: Person, s: Spots) -> Floats:
    """Brow strokes, (m,) in [0,1]: thick at the nose, arched, thin at the temple."""
    height, half, arch, density = person.brow
    x, z = np.abs(s.rest[:, 0]), s.rest[:, 2]
    along = np.clip((x - 0.18) / 0.80, 0, 1)
    line = height - 0.05 + arch * np.sin(np.pi * np.clip(along * 1.15, 0, 1)) - 0.10 * along**3
    size = half * (0.95 - 0.65 * along**1.5)
    inside = step(size - np.abs(z - line), 0.05) * step(x - 0.17, 0.1) * step(0.92 - x, 0.14)
    stroke = np.stack([x * 9 - z * 5, s.rest[:, 1] * 0, z * 26 + x * 14], 1).astype(np.float32)
    return inside * density * np.clip(0.85 + 0.45 * grain(stroke, 1.0), 0, 1)


def _stubble(person: Person, s: Spots, fine: Floats) -> Floats:
    if person.beard == "none" and person.gender == "woman":
        return np.zeros(len(s.rest), np.float32)
    share = {"none": 0.10, "stubble": 0.42}.get(person.beard, 0.72)
    return s.beard * share * np.clip(1 + 0.5 * fine + 0.3 * s.high, 0, 1.2)


def _scalp(person: Person, s: Spots, fine: Floats) -> Floats:
    share = {"bald": 0.06, "buzz cut": 0.80, "receding": 0.75}.get(person.hair_style, 0.95)
    return s.scalp * np.clip(share + 0.12 * fine, 0, 1)


def eye(person: Person, local: Floats, gaze: Floats, side: Floats) -> Floats:
    """Albedo (m, 3) of eyeballs; `local` (m, 3) unit directions from the centre, `gaze` (3,)."""
    cosine = np.clip(local @ gaze, -1, 1)
    angle = np.arccos(cosine)
    plane = local - cosine[:, None] * gaze
    spin = np.arctan2(plane[:, 2], plane[:, 0])
    white = np.array([0.80, 0.765, 0.74], np.float32) - 0.10 * np.abs(side)[:, None] * np.array(
        [0.4, 1.0, 1.0], np.float32
    )
    streak = 0.22 * np.cos(23 * spin + 2 * np.cos(5 * spin)) + 0.12 * np.cos(41 * spin)
    radial = np.clip(angle / 0.40, 0, 1)
    iris = (
        np.asarray(person.iris, np.float32)
        * ((1.25 - 0.35 * radial) * (1 + streak * radial))[:, None]
    )
    iris = blend(iris, bump(radial - 1.0, 0.16) * 0.8, iris * np.float32(0.2))
    colour = blend(white, step(0.40 - angle, 0.05), iris)
    return blend(colour, step(0.155 - angle, 0.04), vector(0.004, 0.004, 0.004))


def cloth(shot: Shot, rest: Floats) -> Floats:
    """Albedo (m, 3) of the garment."""
    x, _, z = rest.T
    main, second = (np.asarray(c, np.float32) for c in (shot.cloth, shot.cloth2))
    colour = main * (1 + 0.06 * grain(rest, 11))[:, None]
    if shot.pattern == "heather":
        colour = colour * (1 + 0.16 * grain(rest * [1, 1, 3], 14))[:, None]
    elif shot.pattern == "stripes":
        colour = blend(colour, step(np.sin(z * 13) - 0.35, 0.2), second)
    elif shot.pattern == "checks":
        grid = step(np.sin(z * 8) - 0.3, 0.3) + step(np.sin(x * 8) - 0.3, 0.3)
        colour = blend(colour, 0.4 * grid, second)
    depth = cloth_depth(shot, rest)
    edge = 0.45 if shot.garment == "collar" else 0.14
    return colour * (1 - 0.45 * bump(depth - edge, 0.03))[:, None]
