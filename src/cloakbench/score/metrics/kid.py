"""How far the samples as a whole are from photos of the person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from cloakbench.score.base import SetMetric, metrics
from cloakbench.score.by_clip import ByClip

if TYPE_CHECKING:
    from torch import Tensor

DEGREE = 3


@metrics.register("kid")
class KID(ByClip, SetMetric):
    """Kernel distance of a cell's samples to the person's set_C, by what CLIP sees in them.

    The unbiased squared maximum mean discrepancy of CLIP's image embeddings, under the kernel
    (x . y / d + 1)^3 of their d values. 0 is the same distribution, and estimates scatter around
    it: also below. Unlike FID it has no bias from few photos, but it is noisy with them: read it
    over identities. Embeddings are scaled to a mean square of 1, since at CLIP's unit length the
    kernel would see little but their means.
    """

    source: ClassVar[str] = (
        "Binkowski et al. 2018, arXiv 1801.01401, eq. 4 and section 4; CLIP in Inception's place "
        "as Jayasumana et al. 2024, arXiv 2401.09603, argue"
    )
    presets: ClassVar = {"mini": {"clip": "resources/mini/judge"}, "tiny": {"clip": "tiny_clip"}}
    title: ClassVar = "KID"
    protects: ClassVar = "higher"
    bounds: ClassVar = (-(2.0**DEGREE), 2 * 2.0**DEGREE)

    def score(
        self, samples: Sequence[Image.Image], photos: Sequence[Image.Image], device: str = "cpu"
    ) -> float:
        if min(len(samples), len(photos)) < 2:
            return math.nan
        clean, seen = self._embed(photos, device), self._embed(samples, device)
        return squared_mmd(seen, clean)

    def _embed(self, images: Sequence[Image.Image], device: str) -> Tensor:
        from cloakbench.models.clip import load_clip

        unit = load_clip(self.clip, device).embed_images(images)
        return unit.double() * math.sqrt(unit.shape[1])


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of features (m, d) and (n, d) with m and n of 2 or more."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** DEGREE

    def mean_of_pairs(gram: Tensor) -> Tensor:
        n = len(gram)
        return (gram.sum() - gram.trace()) / (n * (n - 1))  # no feature is paired with itself

    within = mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y))
    return float(within - 2 * kernel(x, y).mean())
