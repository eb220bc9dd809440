"""How near an image is to its prompt, to CLIP."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.by_clip import ByClip
from cloakbench.score.references import References


@metrics.register("clip_prompt")
class ClipPrompt(ByClip, ImageMetric):
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

    prompt: str = Field("a photo of a person", description="what the images should show")

    def score(self, sample: Sample, references: References, identity: str) -> float:
        from cloakbench.models.clip import prompt_cosine

        return prompt_cosine(self.clip, self.prompt)(sample.image)
