"""Geometry of a head: shape, smoothing, expression, pose. Unit: 62.5 mm, the mean eye distance.

The origin lies between the eyes, x to the person's left, y to the back, z up. `rest` coordinates
are those of the mean head; they name places ("the brow") on every head alike.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from cloakbench.miniature.synth import template as tp
from cloakbench.miniature.synth.arrays import Floats, Ints
from cloakbench.miniature.synth.people import Person, Shot

UNIT = 0.0625  # [m]
PIVOT = np.array([0.0, 1.25, -1.7], np.float32)  # the head turns about this point of the neck


@dataclass(frozen=True)
class Base:
    """What all heads share, after one step of Loop subdivision: n vertices, f faces.

    smooth: (n, coarse) operator. rest: (n, 3). faces: (f, 3). label: (f,).
    lips, ears: (n,) in [0,1]. lid: (n,) distance to the nearest lid rim. upper: (n,) in [0,1],
    1 above the line between the eye's corners.
    turn: (n,) share of the head's rotation that a vertex follows, in [0,1].
    """

    smooth: sp.csr_matrix
    average: sp.csr_matrix
    rest: Floats
    faces: Ints
    label: Ints
    lips: Floats
    ears: Floats
    lid: Floats
    upper: Floats
    turn: Floats
    eyes: tuple[Ints, Ints]  # vertices of the left and right eyeball


@functools.cache
def base() -> Base:
    """The shared head, built once per process."""
    t = tp.load_template()
    mean = _centred(t.grid.mean((0, 1, 2, 3)), t)
    smooth, faces = loop_subdivision(t.faces, len(mean))
    label = np.tile(t.label, 4)  # children follow their parents, in four blocks
    rest = (smooth @ mean).astype(np.float32)
    uv = (smooth @ t.uv).astype(np.float32)
    mouth = (np.abs(rest[:, 0]) < 0.7) & (np.abs(rest[:, 2] + 1.05) < 0.45) & (rest[:, 1] < 0.3)
    side = (np.abs(rest[:, 0]) > 0.9) & (np.abs(rest[:, 2] + 0.2) < 1.2)
    rim = np.intersect1d(faces[label == tp.SKIN], faces[label == tp.CAVITY])
    return Base(
        smooth=smooth, average=_average(faces, len(rest)), rest=rest, faces=faces, label=label,
        lips=tp.lookup(t.lips, uv) * mouth, ears=tp.lookup(t.ears, uv) * side,
        lid=_lid_distance(rest, rim), upper=_above_corners(rest, rim), turn=turn_weight(rest),
        eyes=(np.unique(faces[label == tp.EYE_L]), np.unique(faces[label == tp.EYE_R])),
    )  # fmt: skip


def loop_subdivision(faces: Ints, count: int) -> tuple[sp.csr_matrix, Ints]:
    """One Loop step as a (count + edges, count) matrix, and the four times finer faces."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    unique, inverse, uses = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    inverse, sides = inverse.ravel(), len(faces)
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    inner = uses == 2
    ends = np.where(inner, 3 / 8, 1 / 2)
    rows = np.repeat(np.arange(len(unique)), 2)
    odd = sp.csr_matrix((np.repeat(ends, 2), (rows, unique.ravel())), (len(unique), count))
    wing = inner[inverse]
    odd = odd + sp.csr_matrix(
        (np.full(wing.sum(), 1 / 8), (inverse[wing], opposite[wing])), (len(unique), count)
    )
    even = _even_rule(unique, inner, count)
    a, b, c = (inverse[i * sides : (i + 1) * sides] + count for i in range(3))
    blocks = [(faces[:, 0], a, c), (a, faces[:, 1], b), (c, b, faces[:, 2]), (a, b, c)]
    finer = np.concatenate([np.stack(block, 1) for block in blocks]).astype(np.int32)
    return sp.vstack([even, odd]).tocsr().astype(np.float32), finer


def _even_rule(edges: Ints, inner: np.ndarray, count: int) -> sp.csr_matrix:
    """Old vertices move towards their neighbours; those on an open border stay."""
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = sp.csr_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), (count, count))
    valence = np.asarray(graph.sum(1)).ravel()
    border = np.zeros(count, bool)
    border[edges[~inner].ravel()] = True
    beta = 5 / 8 - (3 / 8 + np.cos(2 * np.pi / np.maximum(valence, 1)) / 4) ** 2
    beta = np.where(border | (valence == 0), 0, beta)
    pull = sp.diags(beta / np.maximum(valence, 1)) @ graph
    return (sp.diags(1 - beta) + pull).tocsr()


def _average(faces: Ints, count: int) -> sp.csr_matrix:
    """(n, n) mean over a vertex and its neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    both = np.concatenate([edges, edges[:, ::-1], np.arange(count)[:, None].repeat(2, 1)])
    graph = sp.csr_matrix((np.ones(len(both), np.float32), (both[:, 0], both[:, 1])))
    graph.data[:] = 1
    return (sp.diags(1 / np.asarray(graph.sum(1)).ravel()) @ graph).tocsr().astype(np.float32)


def _lid_distance(rest: Floats, rim: Ints) -> Floats:
    """Distance to the rim where the outer skin meets the eye's cavity, (n,)."""
    return cKDTree(rest[rim]).query(rest)[0].astype(np.float32)


def _above_corners(rest: Floats, rim: Ints) -> Floats:
    """1 above the line between an eye's corners, 0 below, (n,)."""
    above = np.zeros(len(rest), np.float32)
    for side in (-1, 1):
        eye = rest[rim][rest[rim, 0] * side > 0]
        inner, outer = eye[np.argmin(eye[:, 0] * side)], eye[np.argmax(eye[:, 0] * side)]
        share = np.clip((rest[:, 0] - inner[0]) / (outer[0] - inner[0]), 0, 1)
        line = inner[2] + share * (outer[2] - inner[2])
        here = rest[:, 0] * side > 0
        above[here] = np.clip((rest[here, 2] - line[here]) / 0.04 + 0.5, 0, 1)
    return above


def turn_weight(points: Floats) -> Floats:
    """Share of the head's rotation at `points` (m, 3): 0 on the shoulders, 1 above the jaw."""
    height = points[:, 2] - 0.35 * (points[:, 1] - 1)
    t = np.clip((height + 3.1) / 1.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _centred(points: Floats, t: tp.Template) -> Floats:
    """Metres to units about the middle between the eyeballs."""
    eyes = np.unique(t.faces[(t.label == tp.EYE_L) | (t.label == tp.EYE_R)])
    return (points - points[eyes].mean(0)) / np.float32(UNIT)


def coarse_shape(person: Person) -> Floats:
    """The person's neutral head before smoothing, (coarse, 3)."""
    t = tp.load_template()
    age = np.array([1 - person.age, person.age])
    gender = np.array([person.masculinity, 1 - person.masculinity])
    weight = np.array([np.interp(person.weight, tp.WEIGHTS, row) for row in np.eye(3)])
    mix = np.einsum("r,g,a,w->rgaw", person.ancestry, gender, age, weight).astype(np.float32)
    points = np.einsum("rgaw,rgawnc->nc", mix, t.grid)
    shape = dict(person.shape)
    value = np.array([shape.get(name, 0.0) for name in t.local_names], np.float32)
    both = np.stack([np.maximum(value, 0), np.maximum(-value, 0)], 1)
    return _centred(points + np.einsum("ms,msnc->nc", both, t.local), t)


def expression_offset(shot: Shot) -> Floats:
    """Displacement of the coarse vertices by the shot's facial actions, (coarse, 3)."""
    t = tp.load_template()
    value = np.zeros(len(t.action_names), np.float32)
    for name, strength in shot.actions.items():
        for i, full in enumerate(t.action_names):
            if full in (name, name + "Left", name + "Right"):
                value[i] = strength
    used = np.flatnonzero(value)
    return np.einsum("a,anc->nc", value[used], t.action[used]) / np.float32(UNIT)


def vertex_normals(points: Floats, faces: Ints) -> Floats:
    """Area-weighted unit normals, (n, 3)."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, i], 3), len(points)) for i in range(3)], 1
    )
    return unit(total.astype(np.float32))


def unit(vectors: Floats) -> Floats:
    """Vectors (..., 3) scaled to length 1."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    return vectors / np.maximum(length, 1e-9)[..., None]


def rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """Matrix that rolls (about y), then pitches (about x), then yaws (about z)."""
    (cy, sy), (cx, sx), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return (z @ x @ y).astype(np.float32)


def pose(points: Floats, turn: Floats, shot: Shot) -> Floats:
    """Turn points (n, 3) about the neck: wholly where `turn` is 1, with the body where it is 0."""
    head = rotation(shot.yaw, shot.pitch, shot.roll)
    body = rotation(shot.body_yaw, 0, 0)
    offset = points - PIVOT
    return (offset @ body.T) * (1 - turn[:, None]) + (offset @ head.T) * turn[:, None] + PIVOT
