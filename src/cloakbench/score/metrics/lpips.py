"""How different a photo looks from its original."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cloakbench.files.weights import WeightFile, weights_in
from cloakbench.score.base import NetworkMetric, Sample, images_of, metrics, originals_of

if TYPE_CHECKING:
    from cloakbench.models.perceptual import Distance

BATCH = 4  # pairs that go through at once: VGG16's features are large


@metrics.register("lpips")
class LPIPS(NetworkMetric):
    """Perceptual distance of a photo to its original, LPIPS with VGG16.

    Of protected photos it says how visible the perturbation is, of purified ones how faithful they
    are.
    """

    source: ClassVar[str] = "Zhang et al. 2018, arXiv 1801.03924, eq. 1; version 0.1 of its weights"
    presets: ClassVar = {"tiny": {}}
    title: ClassVar = "LPIPS"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, math.inf)
    reads: ClassVar = frozenset({"pixels", "original"})
    needs: ClassVar = frozenset({"gpu"})

    def files(self) -> Iterable[WeightFile]:
        from cloakbench.models.perceptual import lpips_files

        return [each for path in lpips_files() for each in weights_in(path)]

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        import torch

        from cloakbench.files.images import to_pixels
        from cloakbench.models.perceptual import lpips_files

        distance = _distance(device, *lpips_files())
        pairs = zip(images_of(samples), originals_of(samples), strict=True)
        found: list[float] = []
        for _, same in itertools.groupby(pairs, lambda pair: pair[0].size):
            photos, originals = (to_pixels(side) for side in zip(*same, strict=True))
            with torch.inference_mode():
                for pair in zip(photos.split(BATCH), originals.split(BATCH), strict=True):
                    found += distance(*(side.to(device) for side in pair)).tolist()
        return found


@cache
def _distance(device: str, *_files: Path) -> Distance:
    from cloakbench.models.perceptual import load_lpips

    return load_lpips(device)
