"""How near a photo is to its original, to CLIP."""

from __future__ import annotations

from typing import ClassVar

from PIL import Image

from cloakbench.score.base import PhotoMetric, metrics
from cloakbench.score.by_clip import ByClip


@metrics.register("clip_original")
class ClipOriginal(ByClip, PhotoMetric):
    """Cosine of the CLIP embeddings of a protected or purified photo and its original."""

    source: ClassVar[str] = "Radford et al. 2021, CLIP, arXiv 2103.00020: the image tower"
    title: ClassVar = "CLIP to original"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        from cloakbench.models.clip import load_clip

        a, b = load_clip(self.clip).embed_images([photo, original])
        return float(a @ b)
