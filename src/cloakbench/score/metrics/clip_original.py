"""How near a photo is to its original, to CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cloakbench.score.base import NetworkMetric, Sample, images_of, metrics, originals_of
from cloakbench.score.by_clip import ByClip


@metrics.register("clip_original")
class ClipOriginal(ByClip, NetworkMetric):
    """Cosine of the CLIP embeddings of a protected or purified photo and its original."""

    source: ClassVar[str] = "Radford et al. 2021, CLIP, arXiv 2103.00020: the image tower"
    title: ClassVar = "CLIP to original"
    protects: ClassVar = "lower"
    bounds: ClassVar = (-1.0, 1.0)
    reads: ClassVar = frozenset({"pixels", "original"})

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        from cloakbench.models.clip import load_clip

        clip = load_clip(self.clip, device)
        before = clip.embed_images(originals_of(samples))
        after = clip.embed_images(images_of(samples))
        return (before * after).sum(1).tolist()
