"""Image quality as CLIP reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from cloakbench.score.base import NetworkMetric, Sample, images_of, metrics
from cloakbench.score.by_clip import ByClip


@metrics.register("clip_iqac")
class ClipIQAC(ByClip, NetworkMetric):
    """CLIP-IQA-C: the probability that CLIP gives a good photo, less that of a bad one."""

    source: ClassVar[str] = (
        "Liu et al. 2024, MetaCloak, arXiv 2311.13127, section 5.1, after Wang et al. 2023, "
        "CLIP-IQA, arXiv 2207.12396; recipes 5.2"
    )
    presets: ClassVar = {
        "mini": {"clip": "resources/mini/judge"},
        "tiny": {"clip": "tiny_clip"},
    }
    title: ClassVar = "CLIP-IQA-C"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"pixels"})
    class_texts: ClassVar = ("good", "bad")

    good: str = Field("a good photo of face", description="prompt of a good photo")
    bad: str = Field("a bad photo of face", description="prompt of a bad photo")

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        from cloakbench.models.clip import concept

        shares = concept(self.clip, (self.good, self.bad), images_of(samples), device)
        return [good - bad for good, bad in shares.tolist()]
