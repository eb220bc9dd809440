"""dlib's CNN detector and ResNet recogniser; the weights come with the package."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cloakbench.faces.base import Face, FaceBackend, backends


@backends.register("dlib")
class Dlib(FaceBackend):
    """Max-margin CNN detector, 5-point alignment and ResNet embeddings (128-d).

    The networks were trained for Euclidean distances (same person below 0.6), so the cosines of
    different people are high, about 0.8: read ISM beside relative ISM.
    """

    source: ClassVar[str] = (
        "King 2015, Max-Margin Object Detection, arXiv:1502.00046; dlib_face_recognition_resnet_v1"
    )

    strangers: ClassVar[float] = 0.8

    def detect(self, pixels: np.ndarray) -> list[Face]:
        networks = _networks()
        return [_face(pixels, found, networks) for found in networks.detector(pixels)]


class _Networks(NamedTuple):
    detector: Any
    landmarks: Any
    recogniser: Any


@cache
def _networks() -> _Networks:
    import dlib
    import face_recognition_models as weights

    return _Networks(
        dlib.cnn_face_detection_model_v1(weights.cnn_face_detector_model_location()),
        dlib.shape_predictor(weights.pose_predictor_five_point_model_location()),
        dlib.face_recognition_model_v1(weights.face_recognition_model_location()),
    )


def _face(pixels: np.ndarray, found: Any, networks: _Networks) -> Face:
    box = found.rect
    shape = networks.landmarks(pixels, box)
    embedding = np.asarray(networks.recogniser.compute_face_descriptor(pixels, shape))
    edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)  # dlib's edges are inclusive
    return Face(edges, found.confidence, embedding)
