"""How far the most changed value of a photo is from its original."""

from __future__ import annotations

from typing import ClassVar

from PIL import Image

from cloakbench.files.images import largest_change
from cloakbench.score.base import PhotoMetric, metrics


@metrics.register("linf")
class Linf(PhotoMetric):
    """Largest change of a channel value, in grey levels; of many photos, the largest of all."""

    source: ClassVar[str] = "the norm of the budgets of Le et al. 2023, arXiv:2303.15433"
    title: ClassVar = "L∞ [levels]"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, 255.0)
    display: ClassVar[str] = ".0f"
    aggregate: ClassVar = "max"

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        return largest_change([photo], [original])
