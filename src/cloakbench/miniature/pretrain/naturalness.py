"""Measures of quality on trial: they must like clean portraits more than degraded copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torchvision.transforms.functional import gaussian_blur

from cloakbench.files.images import to_images, to_pixels
from cloakbench.miniature.pretrain.degrade import Random, grainy, recompressed
from cloakbench.miniature.pretrain.judge import SPOILING
from cloakbench.miniature.pretrain.textures import TEXTURES, textured
from cloakbench.score.base import ImageMetric, Sample
from cloakbench.score.metrics.brisque import Brisque
from cloakbench.score.references import NO_REFERENCES

FAINT = {kind: partial(textured, kind=kind, levels=10.0) for kind in TEXTURES}
"""Textures of 10 grey levels; the budget under study is 11."""


def scores(metric: ImageMetric, images: Sequence[Image.Image]) -> list[float]:
    """What a metric that needs no faces says of each image."""
    return [metric.score(Sample(image, None), NO_REFERENCES, "") for image in images]


def naturalness(portraits: Sequence[Image.Image]) -> tuple[list[float], dict[str, list[float]]]:
    """BRISQUE of clean portraits, and of their degraded copies by the kind of degradation.

    Blurred by 1.5 px, with noise of 15 grey levels, as JPEG of quality 20, under each texture.
    """
    pixels, rng = to_pixels(portraits), np.random.default_rng(0)
    copies = {
        "blur": gaussian_blur(pixels, [11, 11], [1.5, 1.5]),
        "noise": grainy(pixels, 15, rng),
        "jpeg": recompressed(pixels, 20),
        **{kind: texture(pixels, rng) for kind, texture in FAINT.items()},
    }
    worse = {kind: scores(Brisque(), to_images(copy)) for kind, copy in copies.items()}
    return scores(Brisque(), portraits), worse


def smear(pixels: Tensor, rng: Random) -> Tensor:
    """A horizontal or vertical motion blur of 7 px."""
    kernel = torch.zeros(3, 1, 7, 7)
    kernel[:, :, 3] = 1 / 7
    wider = pad(pixels, (3, 3, 3, 3), mode="replicate")
    return conv2d(wider, kernel if rng.random() < 0.5 else kernel.mT, groups=3)


def pepper(pixels: Tensor, rng: Random) -> Tensor:
    """One pixel in twenty black or white."""
    draws = torch.from_numpy(rng.random(pixels[:, :1].shape, dtype=np.float32))
    return torch.where(draws < 0.025, 0.0, torch.where(draws > 0.975, 1.0, pixels))


def banded(pixels: Tensor, rng: Random) -> Tensor:
    """Four to six levels of each channel."""
    steps = int(rng.integers(3, 6))
    return (pixels * steps).round() / steps


UNKNOWN: dict[str, Callable[[Tensor, Random], Tensor]] = {
    "smear": smear,
    "pepper": pepper,
    "banded": banded,
    **FAINT,
}
"""Degradations that no judge is trained on."""


def judge_accuracy(judge: ImageMetric, portraits: Sequence[Image.Image]) -> dict[str, float]:
    """How often a margin has the right sign: of clean portraits, and of copies degraded in ways
    that the judge is trained on, and in others.
    """
    pixels, rng = to_pixels(portraits), np.random.default_rng(0)

    def bad(spoil: Callable[[Tensor, Random], Tensor]) -> float:
        copies = torch.cat([spoil(each, rng).clamp(0, 1) for each in pixels.split(1)])
        return float(np.mean(np.less(scores(judge, to_images(copies)), 0)))

    clean = float(np.mean(np.greater(scores(judge, portraits), 0)))
    known = {f"trained_on_{kind}": bad(spoil) for kind, spoil in SPOILING.items()}
    unknown = {f"never_seen_{kind}": bad(spoil) for kind, spoil in UNKNOWN.items()}
    return {"clean": clean, **known, **unknown}
