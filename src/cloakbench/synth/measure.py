"""Do face detectors and recognisers take the portraits for people?"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
_DETECTION = 256  # [px] dlib's detector was trained on faces of 40 px and more


def measure(folder: str | Path, scrfd: str | Path | None = None) -> dict[str, Any]:
    """Detection shares and verification accuracy over `folder/<identity>/**/*.png`.

    `scrfd` names a folder with one SCRFD model (`scrfd*.onnx`); without it only dlib detects.
    Accuracy is that of the best distance threshold, with same and different pairs weighted alike.
    """
    names, vectors, missed = [], [], []
    for path in sorted(Path(folder).glob("*/**/*.png")):
        image = enlarge(path)
        box = detect(image)
        if box is None:
            missed.append(str(path))
        else:
            names.append(path.relative_to(folder).parts[0])
            vectors.append(embed(image, box))
    total = len(names) + len(missed)
    result = {"portraits": total, "dlib": len(names) / max(1, total), "dlib_missed": missed}
    result |= verification(names, np.array(vectors))
    if scrfd is not None:
        lost = [str(p) for p in sorted(Path(folder).glob("*/**/*.png")) if not _scrfd(scrfd, p)]
        result |= {"scrfd": 1 - len(lost) / max(1, total), "scrfd_missed": lost}
    return result


def enlarge(path: Path) -> Pixels:
    """The picture as (h, w, 3), bicubically enlarged to at least 256 px."""
    image = Image.open(path).convert("RGB")
    size = max(_DETECTION, image.width)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def detect(image: Pixels) -> Any | None:
    """The largest face that dlib's CNN detector finds, as a dlib rectangle, or `None`."""
    boxes = [hit.rect for hit in _dlib()["detector"](image, 0)]
    return max(boxes, key=lambda box: box.area(), default=None)


def embed(image: Pixels, box: Any) -> NDArray[np.float64]:
    """Dlib's 128 numbers for the face in `box`."""
    models = _dlib()
    shape = models["landmarks"](image, box)
    return np.array(models["embedder"].compute_face_descriptor(image, shape))


@functools.cache
def _dlib() -> dict[str, Any]:
    import dlib
    import face_recognition_models as weights

    return {
        "detector": dlib.cnn_face_detection_model_v1(weights.cnn_face_detector_model_location()),
        "landmarks": dlib.shape_predictor(weights.pose_predictor_model_location()),
        "embedder": dlib.face_recognition_model_v1(weights.face_recognition_model_location()),
    }


@functools.cache
def _scrfd_model(folder: str) -> Any:
    from insightface.model_zoo import get_model

    model = get_model(str(next(Path(folder).glob("scrfd*.onnx"))))
    model.prepare(ctx_id=-1, input_size=(320, 320))
    return model


def _scrfd(folder: str | Path, path: Path) -> bool:
    image = Image.open(path).convert("RGB").resize((320, 320), Image.Resampling.BICUBIC)
    boxes, _ = _scrfd_model(str(folder)).detect(np.asarray(image)[..., ::-1])
    return len(boxes) > 0


def verification(names: list[str], vectors: NDArray[np.float64]) -> dict[str, float]:
    """Balanced accuracy of the best threshold, and the mean distance of both kinds of pairs."""
    same, different = (np.array(list(_distances(names, vectors, kind))) for kind in (True, False))
    if len(same) == 0 or len(different) == 0:
        return {}
    steps = np.linspace(0, 1.5, 601)[:, None]
    accuracy = ((same < steps).mean(1) + (different >= steps).mean(1)) / 2
    return {
        "accuracy": float(accuracy.max()),
        "threshold": float(steps[accuracy.argmax(), 0]),
        "same": float(same.mean()),
        "different": float(different.mean()),
    }


def _distances(names: list[str], vectors: NDArray[np.float64], same: bool) -> Iterator[float]:
    for i, j in itertools.combinations(range(len(names)), 2):
        if (names[i] == names[j]) == same:
            yield float(np.linalg.norm(vectors[i] - vectors[j]))
