"""Can a face backend find and tell apart the people in a set of portraits?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cloakbench.errors import CloakBenchError
from cloakbench.faces import FaceBackend, largest
from cloakbench.files.bundle import bundled
from cloakbench.files.images import SUFFIXES, read_photo
from cloakbench.files.layout import SETS


def measure_faces(folder: Path, backend: FaceBackend) -> dict[str, Any]:
    """Detection and verification over all photos below `folder/<identity>/`.

    Returns:
        `portraits`, `found` (share with a face), `missed` (files without one), and what
        `verification` returns.

    Raises:
        CloakBenchError: there are no portraits.
    """
    folder = bundled(folder)
    _check_people(folder)
    files = sorted(path for path in folder.glob("*/**/*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise CloakBenchError(f"{folder}: no folders of portraits. Check the path.")
    vectors = embed_all(map(read_photo, files), backend, len(files))
    missed = [str(p) for p, vector in zip(files, vectors, strict=True) if vector is None]
    return {
        "portraits": len(files),
        "found": 1 - len(missed) / len(files),
        "missed": missed,
        **verification([path.relative_to(folder).parts[0] for path in files], vectors),
    }


def _check_people(folder: Path) -> None:
    """See that a folder's folders are people's, not the sets or the photos of one of them."""
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    sets = sorted(inside & {*SETS})
    photos = sorted(name for name in inside if Path(name).suffix.lower() in SUFFIXES)
    if sets or photos:
        raise CloakBenchError(
            f"{folder}: holds {(sets or photos)[0]}, as one person's folder does, and people are "
            f"compared. Name the folder around it: {folder.resolve().parent}."
        )


def embed_all(
    images: Iterable[Image.Image], backend: FaceBackend, total: int | None = None
) -> list[np.ndarray | None]:
    """The embedding of each image's largest face, None where no face is found."""
    bar = tqdm(images, total=total, desc="faces", disable=None, leave=False)
    faces = (largest(backend.faces(image)) for image in bar)
    return [face.embedding if face is not None else None for face in faces]


def verification(names: Sequence[str], vectors: Sequence[np.ndarray | None]) -> dict[str, float]:
    """Balanced accuracy of the best threshold on the cosine of all pairs of faces.

    names: who is in each image. Returns `accuracy` in [0.5, 1], its `threshold`, and the mean
    cosine of `same` and `different` pairs; nothing if there are no pairs of either kind.
    """
    found = [(name, v / np.linalg.norm(v)) for name, v in zip(names, vectors, strict=True)
             if v is not None]  # fmt: skip
    if len(found) < 2:
        return {}
    labels = np.array([name for name, _ in found])
    matrix = np.stack([v for _, v in found])
    upper = np.triu_indices(len(found), 1)
    cosines = (matrix @ matrix.T)[upper]
    alike = (labels[:, None] == labels[None, :])[upper]
    if alike.all() or not alike.any():
        return {}
    accuracy, threshold = _best_threshold(cosines, alike)
    return {
        "accuracy": accuracy,
        "threshold": threshold,
        "same": float(cosines[alike].mean()),
        "different": float(cosines[~alike].mean()),
    }


def _best_threshold(cosines: np.ndarray, alike: np.ndarray) -> tuple[float, float]:
    """The cosine from which on pairs count as alike, with both kinds of errors weighted alike."""
    order = np.argsort(-cosines)
    hits = np.cumsum(alike[order]) / alike.sum()
    false_alarms = np.cumsum(~alike[order]) / (~alike).sum()
    ranked = cosines[order]
    tied = np.append(ranked[:-1] == ranked[1:], False)  # a threshold lets in all of them or none
    balanced = np.where(tied, 0, (hits + 1 - false_alarms) / 2)
    best = int(balanced.argmax())
    return float(balanced[best]), float(ranked[best])
