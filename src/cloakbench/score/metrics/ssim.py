"""How much of a photo's structure is that of its original."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from cloakbench.score.base import PhotoMetric, metrics


@metrics.register("ssim")
class SSIM(PhotoMetric):
    """Structural similarity of a photo to its original, 1 for equal ones.

    A Gaussian window of sigma 1.5, population covariances, the mean over the channels.
    """

    source: ClassVar[str] = "Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13"
    title: ClassVar = "SSIM"
    protects: ClassVar = "higher"
    bounds: ClassVar = (-1.0, 1.0)

    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        from skimage.metrics import structural_similarity

        similarity = structural_similarity(
            *(np.asarray(photo, np.float64), np.asarray(original, np.float64)),
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        return float(similarity)
