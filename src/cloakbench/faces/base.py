"""What a face is, and what every face backend does around its detector and recogniser."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, final

import numpy as np
from PIL import Image
from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.registry import Method, Registry


class Face(NamedTuple):
    """One detected face.

    box: left, top, right, bottom in pixels of the image that was searched.
    confidence: the detector's own score; scales differ between backends.
    embedding: the recogniser's vector, shape (d,), as the network gives it (not normalised).
    quality: how steady the embedding is under dropout, in [0, 1]; NaN where it was not asked for.
    """

    box: tuple[float, float, float, float]
    confidence: float
    embedding: np.ndarray
    quality: float = math.nan

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        """The box in whole pixels, at least one by one."""
        left, top, right, bottom = map(round, self.box)
        return left, top, max(right, left + 1), max(bottom, top + 1)


def largest(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box, the one that Anti-DreamBooth scores; None without a face."""
    return max(faces, key=_area, default=None)


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors (d,), in [-1, 1]."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


class FaceBackend(Method):
    """A detector and a recogniser.

    A subclass writes `detect`; this class enlarges small images, brings the boxes back to the
    image's own pixels and refuses embeddings that no comparison could use.

    strangers: class variable, about the mean cosine of two people's embeddings.
    """

    strangers: ClassVar[float] = 0.0

    smallest_side: int = Field(
        256,
        ge=0,
        description="[px] images with a shorter side below this are enlarged (bicubic) before "
        "detection: detectors are trained on larger faces than a 128 px sample holds",
    )

    @final
    def faces(self, image: Image.Image) -> list[Face]:
        """Every face in an image; an empty list where there is none.

        Args:
            image: RGB, 8 bits per channel.

        Raises:
            CloakBenchError: the weights cannot be loaded, or give embeddings that are not finite.
        """
        enlarged, scale = _enlarge(image, self.smallest_side)
        found = self.detect(np.ascontiguousarray(enlarged, dtype=np.uint8))
        return [self._checked(face, scale) for face in found]

    @abstractmethod
    def detect(self, pixels: np.ndarray) -> list[Face]:
        """Find and embed the faces of one image: uint8 RGB, shape (h, w, 3)."""

    def _checked(self, face: Face, scale: float) -> Face:
        norm = np.linalg.norm(face.embedding)
        if not np.isfinite(norm) or norm == 0:
            raise CloakBenchError(
                f"face backend '{self.name}': an embedding has length {norm}. Its weights are "
                "damaged; fetch them again."
            )
        left, top, right, bottom = (float(edge) / scale for edge in face.box)
        box = (left, top, right, bottom)
        return face._replace(box=box, confidence=float(face.confidence))


def _enlarge(image: Image.Image, smallest_side: int) -> tuple[Image.Image, float]:
    scale = smallest_side / min(image.size)
    if scale <= 1:
        return image, 1.0
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC), scale


backends: Registry[FaceBackend] = Registry("face backend", "cloakbench.faces", "cloakbench.faces")
"""Every face backend, by name."""
