"""Whether a sample passes for its person."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.ism import ISM
from cloakbench.score.references import References


@metrics.register("identified")
class Identified(ISM):
    """Whether the face passes for the person: a cosine that 1 % of strangers' clean photos reach.

    So chance is 1 %, however many people the dataset has, if their photos make 100 comparisons with
    others or more; of fewer, the largest cosine is taken, and chance is about one in so many. A
    sample without a face is not identified
    (0); `identified_detected` leaves it out instead. NaN in a dataset of one identity.
    """

    source: ClassVar[str] = (
        "verification at a false-accept rate of 1 % (Phillips et al. 2011, FRVT)"
    )
    title: ClassVar = "identified"
    bounds: ClassVar = (0.0, 1.0)
    of_faces: ClassVar = False
    display: ClassVar[str] = ".0%"

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if references.calibration is None:
            return math.nan
        if sample.face is None:
            return 0.0
        return float(super().score(sample, references, identity) >= references.calibration.accept)
