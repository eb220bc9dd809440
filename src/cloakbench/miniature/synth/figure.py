"""A person as triangles: the neutral head is built once, each shot expresses and poses it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cloakbench.miniature.synth import glasses, hair, head, rays, teeth
from cloakbench.miniature.synth.arrays import Floats, Ints
from cloakbench.miniature.synth.people import Person, Shot


@dataclass(frozen=True)
class Neutral:
    """A person without expression: n skin vertices and their strands.

    paint: (n, 5) scalp mask, beard mask, two smooth noises about 0, ambient visibility in [0,1].
    span: height of the chin's and the crown's vertex.
    """

    points: Floats
    strands: hair.Strands | None
    paint: Floats
    span: tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One shot's triangles in camera space: skin first, then hair, teeth, glasses.

    points: (p, 3). faces: (f, 3). skin, hair, teeth: how many faces
    these parts have.
    normals, hair_normals, tangents: unit vectors of skin (n, 3) and of hair vertices (h, 3).
    eyes: centres of both eyeballs. knots: (k, 3) strand points, each owning two hair vertices.
    """

    points: Floats
    faces: Ints
    skin: int
    hair: int
    teeth: int
    normals: Floats
    hair_normals: Floats
    tangents: Floats
    eyes: tuple[Floats, Floats]
    knots: Floats


@functools.lru_cache(maxsize=2)
def neutral(person: Person) -> Neutral:
    """The person's neutral head with hair and ambient visibility."""
    b = head.base()
    points = (b.smooth @ head.coarse_shape(person)).astype(np.float32)
    normals = head.vertex_normals(points, b.faces)
    strands = hair.grow(person, points, normals)
    rng = np.random.default_rng([person.seed, 4])
    noise = [_noise(b.rest, rng, scale) for scale in (2.5, 7.0)]
    light = _ambient(points, normals, strands)
    paint = np.column_stack([hair.scalp_mask(person), hair.beard_mask(person), *noise, light])
    chin = points[
        (np.abs(b.rest[:, 0]) < 0.4) & (b.rest[:, 1] < 0.3) & (b.rest[:, 2] > -2.1), 2
    ].min()
    return Neutral(
        points, strands, paint.astype(np.float32), (float(chin), float(points[:, 2].max()))
    )


def _noise(at: Floats, rng: np.random.Generator, scale: float) -> Floats:
    waves, phase = rng.normal(0, scale, (3, 16)), rng.uniform(0, 2 * np.pi, 16)
    return np.cos(at @ waves + phase).mean(1) * 2.8


def _ambient(points: Floats, normals: Floats, strands: hair.Strands | None) -> Floats:
    """Share of the sky that each vertex sees, cosine weighted, (n,) in [0,1]."""
    b, count = head.base(), 12
    mesh, faces = points, b.faces
    if strands is not None:
        ribbon, ribbon_faces = _ribbon_mesh(strands.points, strands)
        mesh = np.concatenate([points, ribbon])
        faces = np.concatenate([faces, ribbon_faces + len(points)])
    scene = rays.make_scene(mesh, faces)
    i = np.arange(count) + 0.5
    ring, turn = np.sqrt(i / count), i * np.pi * (3 - np.sqrt(5))
    local = np.stack([ring * np.cos(turn), ring * np.sin(turn), np.sqrt(1 - i / count)], 1)
    side = head.unit(
        np.cross(normals, np.where(np.abs(normals[:, 2:]) < 0.8, [[0, 0, 1]], [[1, 0, 0]]))
    )
    frame = np.stack([side, np.cross(normals, side), normals], 1)
    out = np.einsum("kc,ncd->nkd", local, frame).astype(np.float32)
    start = np.repeat(points + 0.015 * normals, count, 0)
    far = rays.distance(scene, start, np.ascontiguousarray(out.reshape(-1, 3)))
    seen = np.clip(far.reshape(-1, count) / 2.0, 0, 1).mean(1)
    return b.average @ (b.average @ seen.astype(np.float32))


def _ribbon_mesh(points: Floats, strands: hair.Strands) -> tuple[Floats, Ints]:
    """Two vertices per knot (2sk, 3) and the quads between knots, as triangles."""
    count, knots = points.shape[:2]
    tangent = np.gradient(points, axis=1)
    across = head.unit(np.cross(tangent, strands.normal)) * (0.5 * strands.width[..., None])
    mesh = np.stack([points - across, points + across], 2).reshape(-1, 3)
    a = (np.arange(count)[:, None] * knots + np.arange(knots - 1)).ravel() * 2
    quads = np.stack([a, a + 1, a + 2, a + 1, a + 3, a + 2], 1).reshape(-1, 3)
    return mesh.astype(np.float32), quads.astype(np.int32)


def build(person: Person, shot: Shot) -> Figure:
    """Express and pose a person for one shot."""
    b, n = head.base(), neutral(person)
    moved = (b.smooth @ head.expression_offset(shot)).astype(np.float32)
    plain = n.points + moved
    dressed = (
        plain + head.vertex_normals(plain, b.faces) * (0.07 * cloth_mask(shot, b.rest))[:, None]
    )
    skin = head.pose(dressed, b.turn, shot)
    meshes, faces = [skin], [b.faces]
    strand_faces, knots = 0, np.zeros((0, 3), np.float32)
    normal = tangent = knots
    if n.strands is not None:
        path = _follow(n.strands, moved, shot)
        turned = head.rotation(shot.yaw, shot.pitch, shot.roll)
        ribbon, quads = _ribbon_mesh(path, _turned(n.strands, turned))
        meshes.append(ribbon)
        faces.append(quads + len(skin))
        strand_faces, knots = len(quads), path.reshape(-1, 3)
        tangent = np.repeat(head.unit(np.gradient(path, axis=1)).reshape(-1, 3), 2, 0)
        normal = np.repeat((n.strands.normal @ turned.T).reshape(-1, 3), 2, 0)
    stiff = [teeth.mesh(n.points), *([glasses.mesh(person, plain)] if shot.glasses else [])]
    for part, part_faces in stiff:
        faces.append(part_faces + sum(map(len, meshes)))
        meshes.append(head.pose(part, np.ones(len(part), np.float32), shot))
    left, right = (skin[i].mean(0) for i in b.eyes)
    return Figure(
        points=np.concatenate(meshes),
        faces=np.concatenate(faces),
        skin=len(b.faces),
        hair=strand_faces,
        teeth=len(stiff[0][1]),
        normals=head.vertex_normals(skin, b.faces),
        hair_normals=normal,
        tangents=tangent,
        eyes=(left, right),
        knots=knots,
    )


def _turned(strands: hair.Strands, turn: Floats) -> hair.Strands:
    fields = dict(vars(strands)) | {"normal": strands.normal @ turn.T}
    return hair.Strands(**fields)


def _follow(strands: hair.Strands, moved: Floats, shot: Shot) -> Floats:
    """Strand points (s, k, 3) carried along by their roots and by the head's turn."""
    shift = np.einsum("sk,skc->sc", strands.share, moved[strands.root])
    points = (strands.points + shift[:, None]).reshape(-1, 3)
    return head.pose(points, head.turn_weight(points), shot).reshape(strands.points.shape)


def cloth_depth(shot: Shot, rest: Floats) -> Floats:
    """How far inside the garment a place lies, (m,) in eye distances, negative on bare skin."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    around = np.hypot(x / 1.15, (y - 1.35) / 1.05) - 1.12
    front = np.where(y < 1.2, np.maximum(0, 1 - x / 0.85), 0)
    drop = {"crew": 0.0, "v-neck": 1.25, "collar": 0.55}[shot.garment]
    depth = np.maximum(around, -3.05 - z) - drop * front
    return np.minimum(depth, -2.3 - z)


def cloth_mask(shot: Shot, rest: Floats) -> Floats:
    """Share of garment at rest places, (m,) in [0,1], with a narrow hem."""
    return np.clip(cloth_depth(shot, rest) / 0.06 + 0.5, 0, 1).astype(np.float32)
