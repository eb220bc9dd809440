"""The paper's score of image quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field

from cloakbench.score.base import NetworkMetric, Sample, metrics
from cloakbench.score.metrics.clip_iqac import ClipIQAC
from cloakbench.score.metrics.liqe import LIQE


@metrics.register("q")
class Q(NetworkMetric):
    """Mean of LIQE, rescaled from [1, 5] to [-1, 1], and CLIP-IQA-C."""

    source: ClassVar[str] = "Liu et al. 2024, arXiv 2406.18944, section 5.1; recipes 5.3"
    presets: ClassVar = {
        "tiny": {"liqe": LIQE.presets["tiny"], "clip_iqac": ClipIQAC.presets["tiny"]}
    }
    title: ClassVar = "Q"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"pixels"})
    smallest_side: ClassVar = LIQE.smallest_side

    liqe: LIQE = Field(LIQE(), description="settings of its first half")
    clip_iqac: ClipIQAC = Field(ClipIQAC(), description="settings of its second half")

    @property
    def parts(self) -> Sequence[NetworkMetric]:
        return [self.liqe, self.clip_iqac]

    def of_class(self, noun: str) -> Self:
        return self.model_copy(update={"clip_iqac": self.clip_iqac.of_class(noun)})

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        halves = (part.judge(samples, device) for part in self.parts)
        return [((liqe - 3) / 2 + quality) / 2 for liqe, quality in zip(*halves, strict=True)]
