"""Identity on a scale that does not depend on the face backend, with missing faces in it."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.score.base import Sample, metrics
from cloakbench.score.metrics.relative_ism import RelativeISM
from cloakbench.score.references import References


@metrics.register("relative_ims")
class RelativeIMS(RelativeISM):
    """Relative ISM in which a sample without a face counts as a stranger: 0.

    The primary measure of identity. A mean over the samples that show a face leaves out those that
    a protection harms most, and may rise where it works; this one is of all samples. The value of
    IMS for a missing face is -1 instead, far below any stranger. NaN in a dataset of one identity.
    """

    source: ClassVar[str] = "CloakBench; the IMS of arXiv 2406.18944 on the scale of relative ISM"
    title: ClassVar = "relative IMS"
    of_faces: ClassVar = False
    hidden: ClassVar = None

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if references.calibration is None:
            return math.nan
        return 0.0 if sample.face is None else super().score(sample, references, identity)
