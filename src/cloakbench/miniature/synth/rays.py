"""Embree as two plain functions over arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloakbench.errors import CloakBenchError
from cloakbench.miniature.synth.arrays import Floats, Ints

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError as _error:
    EmbreeScene, _MISSING = None, _error


def make_scene(points: Floats, faces: Ints) -> Any:
    """An Embree scene of one mesh: points (n, 3), faces (f, 3)."""
    if EmbreeScene is None:
        raise CloakBenchError(
            f'portraits need {_MISSING.name}: pip install "cloakbench[synth]"'
        ) from _MISSING
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(points), np.ascontiguousarray(faces))
    return scene


def first_hit(scene: Any, origins: Floats, directions: Floats) -> tuple[Ints, Floats]:
    """Face index (m,), -1 where nothing is hit, and barycentric weights (m, 3)."""
    hit = scene.run(origins, directions, output=True)
    u, v = hit["u"], hit["v"]
    return hit["primID"], np.stack([1 - u - v, u, v], 1)


def distance(scene: Any, origins: Floats, directions: Floats) -> Floats:
    """Distance to the first hit in units of the direction's length, huge where none, (m,)."""
    out: Floats = scene.run(origins, directions, query="DISTANCE")
    return out


def blocked(scene: Any, origins: Floats, directions: Floats) -> NDArray[np.bool_]:
    """Whether anything lies along each ray, (m,)."""
    hit: Ints = scene.run(origins, directions, query="OCCLUDED")
    return hit >= 0
