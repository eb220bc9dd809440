"""Identification among the identities of the dataset."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.faces import cosine
from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("identified")
class Identified(ImageMetric):
    """Whether the face is nearer (cosine) to its own reference than to every other identity's.

    A sample without a face is not identified (0); `identified_detected` leaves it out instead.
    NaN in a dataset of one identity. Chance is 1 / number of identities.
    """

    source: ClassVar[str] = "closed-set identification at rank 1 (Phillips et al. 2011, FRVT)"
    title: ClassVar = "identified"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, 1.0)
    reads: ClassVar = frozenset({"faces", "reference"})
    display: ClassVar[str] = ".0%"

    def score(self, sample: Sample, references: References, identity: str) -> float:
        others = [r.vector for name, r in references.identities.items() if name != identity]
        if not others:
            return math.nan
        if sample.face is None:
            return 0.0
        embedding = sample.face.embedding
        own = cosine(embedding, references[identity].vector)
        return float(all(own > cosine(embedding, other) for other in others))
