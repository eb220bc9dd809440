"""The paper's score of identity."""

from __future__ import annotations

from typing import ClassVar

from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.ism import ISM
from cloakbench.score.references import References


@metrics.register("ims")
class IMS(ISM):
    """Identity matching score: as ISM, but a sample without a face scores -1, the least.

    The paper's IMS is 0.7 of this with insightface's `antelopev2`, and 0.3 of the same idea with
    DeepFace's VGG-Face, which is left out: values compare with one another, not with the paper's.
    Backends to which strangers are alike, as they are to dlib, are refused: their faces' cosines
    differ so little that a missing face would decide alone.
    """

    source: ClassVar[str] = (
        "Liu et al. 2024, arXiv 2406.18944, section 5.1: its IMS_IP; recipes 5.3"
    )
    title: ClassVar = "IMS"
    of_faces: ClassVar = False
    most_of_strangers: ClassVar = 0.3  # else -1 for a missing face outweighs all that faces differ

    def score(self, sample: Sample, references: References, identity: str) -> float:
        return -1.0 if sample.face is None else super().score(sample, references, identity)
