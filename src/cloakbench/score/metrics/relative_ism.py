"""ISM on a scale that does not depend on the face backend."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.ism import ISM
from cloakbench.score.references import References


@metrics.register("relative_ism")
class RelativeISM(ISM):
    """ISM rescaled by clean photos: 0 is how other people score, 1 how the same person does.

    (ISM - other) / (same - other), with the backend's calibration on the dataset. Values below 0
    and above 1 are possible. NaN without a face, and in a dataset of one identity.
    """

    source: ClassVar[str] = "CloakBench; rescales the ISM of Anti-DreamBooth, arXiv:2303.15433"
    title: ClassVar = "relative ISM"
    bounds: ClassVar = (-math.inf, math.inf)
    hidden: ClassVar[tuple[float, float] | None] = (0.0, 1.0)  # a stranger, the person

    def score(self, sample: Sample, references: References, identity: str) -> float:
        ism = super().score(sample, references, identity)
        return references.calibration.relative(ism) if references.calibration else math.nan
