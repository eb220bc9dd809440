"""Image quality as CLIP reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from cloakbench.files.weights import OPENAI_CLIP, WeightFile, find_clip, weights_in
from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("clip_iqac")
class ClipIQAC(ImageMetric):
    """CLIP-IQA-C: the probability that CLIP gives a good photo, less that of a bad one."""

    source: ClassVar[str] = (
        "Liu et al. 2024, MetaCloak, arXiv 2311.13127, section 5.1, after Wang et al. 2023, "
        "CLIP-IQA, arXiv 2207.12396; recipes 5.2"
    )
    presets: ClassVar = {
        "mini": {
            "clip": "resources/mini/clip",
            "good": "a photo of a person",
            "bad": "a photo of a person, noisy pattern",
        },
        "tiny": {"clip": "tiny_clip"},
    }
    title: ClassVar = "CLIP-IQA-C"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"pixels"})

    clip: str = Field(OPENAI_CLIP, description="folder or hub id of a CLIP in transformers' format")
    good: str = Field("a good photo of face", description="prompt of a good photo")
    bad: str = Field("a bad photo of face", description="prompt of a bad photo")

    def files(self) -> Iterable[WeightFile]:
        return weights_in(find_clip(self.clip))

    def score(self, sample: Sample, references: References, identity: str) -> float:
        from cloakbench.models.clip import concept

        good, bad = concept(self.clip, (self.good, self.bad))(sample.image)
        return good - bad
