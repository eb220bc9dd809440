"""Image quality as CLIP reads it, where the probability saturates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from cloakbench.score.base import Sample, images_of, metrics
from cloakbench.score.metrics.clip_iqac import ClipIQAC


@metrics.register("clip_margin")
class ClipMargin(ClipIQAC):
    """The margin behind CLIP-IQA-C: CLIP's scaled cosine to a good photo, less that to a bad one.

    CLIP-IQA-C is tanh of half of it, and cannot tell images apart that are both surely bad.
    """

    source: ClassVar[str] = ClipIQAC.source
    title: ClassVar = "CLIP margin"
    bounds: ClassVar = (-math.inf, math.inf)
    display: ClassVar[str] = ".2f"

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        from cloakbench.models.clip import similarity

        logits = similarity(self.clip, (self.good, self.bad), images_of(samples), device)
        return [good - bad for good, bad in logits.tolist()]
