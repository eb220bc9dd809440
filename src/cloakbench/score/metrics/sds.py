"""How sure the detector is of the faces in a sample."""

from __future__ import annotations

from typing import ClassVar

from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("sds")
class SDS(ImageMetric):
    """Subject detection score: mean confidence of the faces found, 0 without a face.

    MetaCloak's with the backend `facexlib` (RetinaFace). `insightface` has confidences of its own;
    those of `dlib` are margins, of which values above 1 count as 1.
    """

    source: ClassVar[str] = "Liu et al. 2024, MetaCloak, arXiv 2311.13127, section 5.1; recipes 5.2"
    title: ClassVar = "SDS"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, 1.0)
    reads: ClassVar = frozenset({"faces"})

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if not sample.faces:
            return 0.0
        return sum(min(face.confidence, 1.0) for face in sample.faces) / len(sample.faces)
