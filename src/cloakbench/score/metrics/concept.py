"""What CLIP takes an image for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from cloakbench.score.base import NetworkMetric, Sample, images_of, metrics
from cloakbench.score.by_clip import ByClip


@metrics.register("concept")
class Concept(ByClip, NetworkMetric):
    """Share of images that CLIP takes for the first of some prompts, and not for another."""

    source: ClassVar[str] = (
        "zero-shot classification of Radford et al. 2021, CLIP, arXiv 2103.00020, section 3.1; the "
        "concept shares of Liu et al. 2024, arXiv 2406.18944, figures 2 and 3"
    )
    title: ClassVar = "concept"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, 1.0)
    reads: ClassVar = frozenset({"pixels"})
    display: ClassVar[str] = ".0%"
    class_texts: ClassVar = ("prompts",)

    prompts: tuple[str, ...] = Field(
        (
            "a photo of a person",
            "a photo of noise",
            "a photo of a painting",
            "a photo of an object",
        ),
        min_length=2,
        description="what images are told apart by; those of the first are counted",
    )

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        from cloakbench.models.clip import concept

        shares = concept(self.clip, self.prompts, images_of(samples), device)
        return [float(likely[0] == max(likely)) for likely in shares.tolist()]
