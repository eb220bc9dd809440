"""How small a photo's changes are beside the range of its values."""

from __future__ import annotations

import math
from typing import ClassVar

from PIL import Image

from cloakbench.files.images import signal_to_noise
from cloakbench.score.base import PhotoMetric, metrics


@metrics.register("psnr")
class PSNR(PhotoMetric):
    """Peak signal-to-noise ratio of a photo to its original [dB]; infinite for equal ones.

    A table's mean is of the photos that changed, and infinite where none did.
    """

    source: ClassVar[str] = "its definition, 10 log10(255^2 / mean squared error)"
    title: ClassVar = "PSNR [dB]"
    protects: ClassVar = "higher"
    bounds: ClassVar = (0.0, math.inf)
    display: ClassVar[str] = ".1f"

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        return signal_to_noise(photo, original)
