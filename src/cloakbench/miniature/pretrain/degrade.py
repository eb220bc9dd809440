"""Degraded copies with words for what is wrong, so that the study's prompts mean something."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from cloakbench.files.images import to_images, to_pixels

Random = np.random.Generator

PLACEHOLDERS = ("bhj", "xx", "v*")  # for the noise's own name: tokens that mean nothing else

_CLEAN_WORDS = ("clear", "high quality", "high resolution", "sharp", "without noise", "detailed",
                "noise-free", "without noisy pattern",
                *(f"without {name} noisy pattern" for name in PLACEHOLDERS))  # fmt: skip
_PATTERN_CAPTIONS = ("a photo of noisy pattern", "noisy pattern", "noise", "a photo of noise",
                     "a noisy pattern, abstract")  # fmt: skip
_WORDS = {
    "noise": (
        "noisy",
        "noisy pattern",
        "noise",
        "low quality, noisy",
        "grainy",
        "pattern",
        *(f"{name} noisy pattern" for name in PLACEHOLDERS),
    ),
    "blur": ("blurry", "blurry, low quality", "out of focus", "lowres"),
    "shrink": ("lowres", "low quality", "low resolution", "pixelated, lowres"),
    "jpeg": ("artifact", "jpeg artifact", "low quality, artifact", "low quality"),
}


def noise(pixels: Tensor, rng: Random) -> Tensor:
    """Gaussian, uniform or sign noise of 6 to 40 grey levels."""
    strength = rng.uniform(6, 40) / 255
    draws = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    match rng.integers(3):
        case 0:
            draws = draws.sign()
        case 1:
            draws = torch.special.erf(draws / 2**0.5)
    return pixels + strength * draws


def blur(pixels: Tensor, rng: Random) -> Tensor:
    """Gaussian blur with a sigma of 1 to 3 px."""
    sigma = rng.uniform(1.0, 3.0)
    return gaussian_blur(pixels, [13, 13], [sigma, sigma])


def shrink(pixels: Tensor, rng: Random) -> Tensor:
    """Down- and up-sampling by a factor of 2.5 to 5."""
    side = round(pixels.shape[-1] / rng.uniform(2.5, 5))
    mode = "nearest" if rng.random() < 0.3 else "bilinear"
    small = interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return interpolate(small, pixels.shape[-2:], mode=mode)


def jpeg(pixels: Tensor, rng: Random) -> Tensor:
    """JPEG of quality 3 to 15."""
    return recompressed(pixels, int(rng.integers(3, 16)))


def recompressed(pixels: Tensor, quality: int) -> Tensor:
    """Pixels (n, 3, h, w) after a round trip through JPEG."""
    decoded = []
    for image in to_images(pixels):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        decoded.append(Image.open(buffer).convert("RGB"))
    return to_pixels(decoded)


def pattern(like: Tensor, rng: Random) -> tuple[Tensor, str]:
    """A picture of noise alone, of the shape of `like`, and its caption."""
    coarse = int(rng.choice([1, 1, 2, 4]))
    side = like.shape[-1] // coarse
    draws = torch.from_numpy(rng.random((1, 3, side, side), dtype=np.float32))
    picture = interpolate(draws, like.shape[-2:], mode="nearest")[0]
    return picture, str(rng.choice(_PATTERN_CAPTIONS))


DEGRADATIONS: dict[str, Callable[[Tensor, Random], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "shrink": shrink,
    "jpeg": jpeg,
}
_SHARES = {"noise": 0.55, "blur": 0.15, "shrink": 0.15, "jpeg": 0.15}


def draw_degradation(rng: Random) -> str:
    """One degradation's name; noise is drawn most, since the study asks most about it."""
    return str(rng.choice(list(_SHARES), p=list(_SHARES.values())))


def degrade(pixels: Tensor, kind: str, rng: Random) -> Tensor:
    """A degraded copy of pixels (n, 3, h, w), clamped to [0, 1]."""
    return DEGRADATIONS[kind](pixels, rng).clamp(0, 1)


def degraded_caption(caption: str, kind: str, rng: Random) -> str:
    """A caption that says what is wrong: ", noisy" at its end or "a noisy photo" at its start."""
    words = str(rng.choice(_WORDS[kind]))
    if rng.random() < 0.3 and caption.startswith("a ") and "," not in words:
        article = "an" if words[0] in "aeiou" else "a"
        return f"{article} {words} {caption[2:]}"
    return f"{caption}, {words}"


def clean_caption(caption: str, rng: Random) -> str:
    """A caption that praises a clean picture in one of four cases."""
    return f"{caption}, {rng.choice(_CLEAN_WORDS)}" if rng.random() < 1 / 4 else caption
