"""Identification among the samples that show a face."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.identified import Identified
from cloakbench.score.references import References


@metrics.register("identified_detected")
class IdentifiedDetected(Identified):
    """As `identified`, among detected faces only: a sample without a face has no score (NaN)."""

    source: ClassVar[str] = Identified.source
    title: ClassVar = "identified, of detected"
    of_faces: ClassVar = True
    hidden: ClassVar = Identified.bounds

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if sample.face is None:
            return math.nan
        return super().score(sample, references, identity)
