"""Identity score matching."""

from __future__ import annotations

import math
from typing import ClassVar

from cloakbench.faces import cosine
from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("ism")
class ISM(ImageMetric):
    """Cosine of the largest face's embedding to the identity's reference embedding.

    The reference is the plain mean of the un-normalised embeddings of the set_C photos. Samples
    without a face have no score (NaN) and leave the mean, so read ISM beside FDFR.
    """

    source: ClassVar[str] = "Le et al. 2023, Anti-DreamBooth, arXiv:2303.15433, section 5.1"
    title: ClassVar = "ISM"
    of_faces: ClassVar = True
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"faces", "reference"})

    def score(self, sample: Sample, references: References, identity: str) -> float:
        if sample.face is None:
            return math.nan
        return cosine(sample.face.embedding, references[identity].vector)
