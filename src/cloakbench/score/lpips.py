"""How different a photo looks from its original."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cloakbench.score.metric import Metric, Sample, metrics
from cloakbench.score.references import References

if TYPE_CHECKING:
    from cloakbench.perceptual import Distance


@metrics.register("lpips")
class LPIPS(Metric):
    """Perceptual distance of a photo to its original, LPIPS with VGG16; samples have none.

    Of protected photos it says how visible the perturbation is, of purified ones how faithful they
    are.
    """

    source: ClassVar[str] = "Zhang et al. 2018, arXiv 1801.03924, eq. 1; version 0.1 of its weights"
    presets: ClassVar = {"tiny": {}}
    title: ClassVar = "LPIPS"
    protects: ClassVar = "lower"
    bounds: ClassVar = (0.0, math.inf)
    needs: ClassVar = frozenset({"pixels", "original"})

    def check(self) -> None:
        from cloakbench.perceptual import lpips_files

        lpips_files()

    def score(self, sample: Sample, references: References, identity: str) -> float:
        import torch

        from cloakbench.images import to_pixels
        from cloakbench.perceptual import lpips_files

        if sample.original is None:
            return math.nan
        with torch.no_grad():
            pair = to_pixels([sample.image]), to_pixels([sample.original])
            return float(_distance(*lpips_files())(*pair))


@cache
def _distance(*_files: Path) -> Distance:
    from cloakbench.perceptual import load_lpips

    return load_lpips("cpu")
