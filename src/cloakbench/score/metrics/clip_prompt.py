"""How near an image is to a prompt, to CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from cloakbench.score.base import NetworkMetric, Sample, images_of, metrics
from cloakbench.score.by_clip import ByClip


@metrics.register("clip_prompt")
class ClipPrompt(ByClip, NetworkMetric):
    """Cosine of an image's and a prompt's CLIP embeddings: CLIPScore without its factor.

    Of protected photos it says whether they have left what their prompt calls them in CLIP's space.
    The identifier means nothing to CLIP, so the default prompt names the class alone.
    """

    source: ClassVar[str] = (
        "Hessel et al. 2021, CLIPScore, arXiv 2104.08718, eq. 1; the misalignment of Liu et al. "
        "2024, arXiv 2406.18944, figures 2 and 3"
    )
    title: ClassVar = "CLIP to prompt"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"pixels"})
    class_texts: ClassVar = ("prompt",)

    prompt: str = Field("a photo of a person", description="what the images should show")

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        from cloakbench.models.clip import cosines

        found = cosines(self.clip, (self.prompt,), images_of(samples), device)
        return [float(cosine) for cosine in found[:, 0]]
