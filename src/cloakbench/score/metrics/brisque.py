"""Blind image quality."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cloakbench.score.base import ImageMetric, Sample, metrics
from cloakbench.score.references import References


@metrics.register("brisque")
class Brisque(ImageMetric):
    """BRISQUE of the whole image at its own resolution, with the package that Anti-DreamBooth uses.

    Higher is worse quality. Values depend on the resolution: compare cells of one model only.
    Typical values lie in [0, 100]; the regression behind the score has no hard limits, but gives
    155.845 for every image far from those that it has learnt. An image of one colour has no
    natural statistics and no score (NaN).
    """

    source: ClassVar[str] = (
        "Mittal et al. 2012, No-Reference Image Quality Assessment in the Spatial Domain, "
        "doi:10.1109/TIP.2012.2214050; package brisque 0.2"
    )
    title: ClassVar = "BRISQUE"
    protects: ClassVar = "higher"
    bounds: ClassVar = (-np.inf, np.inf)
    reads: ClassVar = frozenset({"pixels"})
    display: ClassVar[str] = ".1f"
    saturates: ClassVar = 155.845  # the offset of the package's support vectors, all far away

    def score(self, sample: Sample, references: References, identity: str) -> float:
        with warnings.catch_warnings():  # numpy on one-element arrays and flat images
            warnings.simplefilter("ignore")
            return float(_model().score(np.asarray(sample.image, dtype=np.uint8)))  # RGB


@cache
def _model() -> Any:
    from brisque import BRISQUE

    return BRISQUE(url=False)
