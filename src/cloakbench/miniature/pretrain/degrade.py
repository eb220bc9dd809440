"""Degraded copies, and ordinary words for what is wrong, as captions from the web have them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from cloakbench.files.images import to_images, to_pixels
from cloakbench.miniature.synth.caption import subjects as of_portraits

Random = np.random.Generator

_PRAISE = ("clear", "high quality", "high resolution", "sharp", "detailed")
_PATTERN_CAPTIONS = ("a photo of noisy pattern", "noisy pattern", "noise", "a photo of noise",
                     "abstract noise")  # fmt: skip
_WORDS = {
    "noise": ("noisy", "noisy pattern", "noise", "low quality, noisy", "grainy"),
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


def grainy(pixels: Tensor, levels: float, rng: Random) -> Tensor:
    """Gaussian noise with a standard deviation of so many grey levels; not clamped."""
    draws = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return pixels + levels / 255 * draws


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
    if rng.random() < 0.3 and _is_a(caption) and "," not in words:
        return _before(caption, words)
    return f"{caption}, {words}"


def clean_caption(caption: str, rng: Random) -> str:
    """A caption that praises a clean picture in one of four cases."""
    return f"{caption}, {rng.choice(_PRAISE)}" if rng.random() < 1 / 4 else caption


def subjects() -> Iterator[str]:
    """Every beginning of a caption that names a degradation, and every caption of noise alone."""
    single = sorted({words for each in _WORDS.values() for words in each if "," not in words})
    for caption, words in product(filter(_is_a, of_portraits()), single):
        yield _before(caption, words)
    yield from _PATTERN_CAPTIONS


def clauses() -> Iterator[str]:
    """All that may end a caption: one of these at most."""
    yield from (words for each in _WORDS.values() for words in each)
    yield from _PRAISE


def _before(caption: str, words: str) -> str:
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words} {caption.removeprefix('a ')}"


def _is_a(caption: str) -> bool:
    return caption.startswith("a ")
