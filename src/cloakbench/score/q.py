"""The paper's score of image quality."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cloakbench.score.clip_iqac import ClipIQAC
from cloakbench.score.liqe import LIQE
from cloakbench.score.metric import Metric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("q")
class Q(Metric):
    """Mean of LIQE, rescaled from [1, 5] to [-1, 1], and CLIP-IQA-C."""

    source: ClassVar[str] = "Liu et al. 2024, arXiv 2406.18944, section 5.1; recipes 5.3"
    presets: ClassVar = {
        "tiny": {"liqe": LIQE.presets["tiny"], "clip_iqac": ClipIQAC.presets["tiny"]}
    }
    title: ClassVar = "Q"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    needs: ClassVar = frozenset({"pixels"})
    smallest_side: ClassVar = LIQE.smallest_side

    liqe: LIQE = Field(LIQE(), description="settings of its first half")
    clip_iqac: ClipIQAC = Field(ClipIQAC(), description="settings of its second half")

    def check(self) -> None:
        self.liqe.check()
        self.clip_iqac.check()

    def score(self, sample: Sample, references: References, identity: str) -> float:
        liqe = self.liqe.score(sample, references, identity)
        return ((liqe - 3) / 2 + self.clip_iqac.score(sample, references, identity)) / 2
