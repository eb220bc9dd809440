"""How near a photo is to its original, to CLIP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from PIL import Image
from pydantic import Field

from cloakbench.files.weights import OPENAI_CLIP, WeightFile, find_clip, weights_in
from cloakbench.score.base import PhotoMetric, metrics


@metrics.register("clip_original")
class ClipOriginal(PhotoMetric):
    """Cosine of the CLIP embeddings of a protected or purified photo and its original."""

    source: ClassVar[str] = "Radford et al. 2021, CLIP, arXiv 2103.00020: the image tower"
    presets: ClassVar = {"mini": {"clip": "resources/mini/clip"}, "tiny": {"clip": "tiny_clip"}}
    title: ClassVar = "CLIP to original"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)

    clip: str = Field(OPENAI_CLIP, description="folder or hub id of a CLIP in transformers' format")

    def files(self) -> Iterable[WeightFile]:
        return weights_in(find_clip(self.clip))

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        from cloakbench.models.clip import load_clip

        a, b = load_clip(self.clip).embed_images([photo, original])
        return float(a @ b)
