"""How good a face is, to a recogniser."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.errors import CloakBenchError
from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("ser_fiq")
class SerFIQ(ImageMetric):
    """SER-FIQ of the largest face: how steady its embedding is when dropout hides parts of it.

    The raw score of the face backend's own recogniser, `facexlib` or `insightface` with its setting
    `dropout_passes`: they differ in scale. It says most of a recogniser that was trained with
    dropout, as facexlib's was. NaN without a face.
    """

    source: ClassVar[str] = (
        "Terhorst et al. 2020, SER-FIQ, arXiv 2003.09373, eq. 2; as in Anti-DreamBooth"
    )
    title: ClassVar = "SER-FIQ"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, 1.0)
    reads: ClassVar = frozenset({"faces"})
    of_faces: ClassVar = True
    hidden: ClassVar = (0.0, 1.0)

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if sample.face is None:
            return math.nan
        if math.isnan(sample.face.quality):
            raise CloakBenchError(
                "metric 'ser_fiq' needs faces with a quality. Set dropout_passes of the face "
                "backend facexlib or insightface to 100, or leave the metric out."
            )
        return sample.face.quality
