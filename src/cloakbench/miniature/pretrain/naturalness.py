"""Whether a measure of quality takes portraits for photographs: it must like degraded ones less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from cloakbench.files.images import to_images, to_pixels
from cloakbench.miniature.pretrain.degrade import grainy, recompressed
from cloakbench.miniature.pretrain.textures import TEXTURES, textured
from cloakbench.score.base import Sample
from cloakbench.score.metrics.brisque import Brisque
from cloakbench.score.references import References

TEXTURE = 10.0  # grey levels of deviation; the budget under study is 11


def brisque(images: Sequence[Image.Image]) -> list[float]:
    """BRISQUE of each image."""
    nobody = References(backend={}, identities={}, calibration=None)
    return [Brisque().score(Sample(image, None), nobody, "") for image in images]


def naturalness(portraits: Sequence[Image.Image]) -> tuple[list[float], dict[str, list[float]]]:
    """BRISQUE of clean portraits, and of their degraded copies by the kind of degradation.

    Blurred by 1.5 px, with noise of 15 grey levels, as JPEG of quality 20, under each texture.
    """
    pixels, rng = to_pixels(list(portraits)), np.random.default_rng(0)
    copies = {
        "blur": gaussian_blur(pixels, [11, 11], [1.5, 1.5]),
        "noise": grainy(pixels, 15, rng),
        "jpeg": recompressed(pixels, 20),
        **{kind: textured(pixels, kind, TEXTURE, rng) for kind in TEXTURES},
    }
    return brisque(portraits), {kind: brisque(to_images(each)) for kind, each in copies.items()}
