"""Face detection failure rate."""

from __future__ import annotations

from typing import ClassVar

from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("fdfr")
class FDFR(ImageMetric):
    """Share of samples in which no face is found: 1 for a sample without a face, else 0.

    Only "no face" counts. An image that cannot be read or weights that are missing stop the run;
    the original script counted them as protected.
    """

    source: ClassVar[str] = "Le et al. 2023, Anti-DreamBooth, arXiv:2303.15433, section 5.1"
    title: ClassVar = "FDFR"
    protects: ClassVar = "higher"
    bounds: ClassVar = (0.0, 1.0)
    reads: ClassVar = frozenset({"faces"})
    display: ClassVar[str] = ".0%"

    def score(self, sample: Sample, references: References, identity: str) -> float:
        return float(sample.face is None)
