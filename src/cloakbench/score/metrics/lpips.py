"""How different a photo looks from its original."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cloakbench.files.weights import WeightFile, weights_in
from cloakbench.score.base import PhotoMetric, metrics

if TYPE_CHECKING:
    from PIL import Image

    from cloakbench.models.perceptual import Distance


@metrics.register("lpips")
class LPIPS(PhotoMetric):
    """Perceptual distance of a photo to its original, LPIPS with VGG16.

    Of protected photos it says how visible the perturbation is, of purified ones how faithful they
    are.
    """

    source: ClassVar[str] = "Zhang et al. 2018, arXiv 1801.03924, eq. 1; version 0.1 of its weights"
    presets: ClassVar = {"tiny": {}}
    title: ClassVar = "LPIPS"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, math.inf)

    def files(self) -> Iterable[WeightFile]:
        from cloakbench.models.perceptual import lpips_files

        return [each for path in lpips_files() for each in weights_in(path)]

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        import torch

        from cloakbench.files.images import to_pixels
        from cloakbench.models.perceptual import lpips_files

        with torch.no_grad():
            pair = to_pixels([photo]), to_pixels([original])
            return float(_distance(*lpips_files())(*pair))


@cache
def _distance(*_files: Path) -> Distance:
    from cloakbench.models.perceptual import load_lpips

    return load_lpips("cpu")
