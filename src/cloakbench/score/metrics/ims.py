"""The paper's score of identity."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from cloakbench.faces import cosine
from cloakbench.files.weights import ONNX, WeightFile, check_weights, find_weights, weights_in
from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.ism import ISM

if TYPE_CHECKING:
    from cloakbench.score.references import References

SHARE = 0.7  # of the face backend's part, where VGG-Face has another
NEAR = 0.4  # cosine distance to a photo below which VGG-Face takes two faces for one person's
SOURCE = "DeepFace's VGG-Face, brought into ONNX's format"


@metrics.register("ims")
class IMS(ISM):
    """Identity matching score: as ISM, but a sample without a face scores -1, the least.

    The paper's IMS is 0.7 of this with insightface's `antelopev2`, and 0.3 of VGG-Face's, which is
    there if `vgg_face` names its weights: one less the mean cosine distance to those of the
    person's clean photos that are nearer than 0.4, and -1 if none is. Where no face is found,
    VGG-Face looks at the whole picture. Faces are those of the face backend, not of the reference's
    OpenCV detector, and not turned upright. Without VGG-Face values compare with one another, not
    with the paper's. Backends to which strangers are alike, as they are to dlib, are refused: their
    faces' cosines differ so little that a missing face would decide alone.
    """

    source: ClassVar[str] = (
        "Liu et al. 2024, arXiv 2406.18944, section 5.1; VGG-Face's part as in MetaCloak's "
        "eval_score.py (recipes 5.2, 5.3)"
    )
    title: ClassVar = "IMS"
    of_faces: ClassVar = False
    most_of_strangers: ClassVar = 0.3  # else -1 for a missing face outweighs all that faces differ

    vgg_face: str | None = Field(
        None,
        description="VGG-Face in ONNX's format, which reads faces in BGR and [0, 1]: a file, or "
        "its name in $CLOAKBENCH_WEIGHTS or ~/.cache/cloakbench; null: without its part",
    )

    @property
    def reads_photos(self) -> bool:
        return self.vgg_face is not None

    def files(self) -> Iterable[WeightFile]:
        return [] if self.vgg_face is None else weights_in(_file(self.vgg_face))

    def score(self, sample: Sample, references: References, identity: str) -> float:
        seen = -1.0 if sample.face is None else super().score(sample, references, identity)
        if self.vgg_face is None:
            return seen
        return SHARE * seen + (1 - SHARE) * _likeness(_file(self.vgg_face), sample)


def _likeness(network: Path, sample: Sample) -> float:
    """VGG-Face's part, of a sample and the photos that it comes with."""
    found = _embedding(network, sample)
    distances = [1 - cosine(found, _embedding(network, photo)) for photo in sample.photos]
    near = [distance for distance in distances if distance < NEAR]
    return 1 - float(np.mean(near)) if near else -1.0


def _embedding(network: Path, sample: Sample) -> np.ndarray:
    image = sample.image if sample.face is None else sample.image.crop(sample.face.pixels)
    return _embedded(network, image.size, image.tobytes())


@lru_cache(maxsize=256)  # the photos are the same for every sample
def _embedded(network: Path, size: tuple[int, int], levels: bytes) -> np.ndarray:
    from cloakbench.models.onnx import load_onnx

    embed, shape = load_onnx(network)
    height, width = (side for side in shape if side != 3)
    fitted = ImageOps.pad(Image.frombytes("RGB", size, levels), (width, height))
    bgr = np.asarray(fitted, np.float32)[..., ::-1] / 255
    return embed(np.ascontiguousarray(bgr.transpose(2, 0, 1) if shape[0] == 3 else bgr))


def _file(name: str) -> Path:
    return check_weights(find_weights(name, SOURCE), ONNX, SOURCE)
