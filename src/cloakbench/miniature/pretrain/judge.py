"""A second CLIP that judges quality, and shares neither weights nor captions with a base model.

It reads portraits that are as they should be, or spoilt in one of a few ordinary ways. It has seen
no perturbation that a protection computes, and none of the textures of `textures`. But random noise
is an ordinary way: noise of 6 to 40 grey levels, of both its kinds, is among what it learnt to call
bad, and so is the control `noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur
from transformers import CLIPModel, CLIPTokenizer

from cloakbench.miniature.pretrain import degrade
from cloakbench.miniature.pretrain.clip import PIXEL_MEAN, PIXEL_STD, build_clip
from cloakbench.miniature.pretrain.degrade import Random, grainy, recompressed

WIDTH, LAYERS, PATCH = 64, 2, 8

GOOD, BAD = "good", "bad"
_VIEWS = ("photo of face", "photo of a face", "picture of somebody", "photograph of someone",
          "picture of a face", "photo")  # fmt: skip
_WORDS = {
    GOOD: ("good", "fine", "nice", "excellent", "faultless"),
    BAD: ("bad", "poor", "spoilt", "terrible", "damaged"),
    "noise": ("speckled", "sandy"),
    "blocks": ("tiled", "mosaic-like"),
    "grain": ("rough", "mottled"),
    "blur": ("fuzzy", "unfocused"),
    "shrink": ("coarse", "tiny enlarged"),
    "jpeg": ("overcompressed", "blocky"),
}
"""By kind; BAD stands for every kind but GOOD."""


def blocks(pixels: Tensor, rng: Random) -> Tensor:
    """Noise of 6 to 30 grey levels in squares of 2 to 4 px."""
    field, (height, width) = int(rng.integers(2, 5)), pixels.shape[-2:]
    small = (len(pixels), 3, -(-height // field), -(-width // field))
    draws = torch.from_numpy(rng.standard_normal(small, dtype=np.float32))
    large = interpolate(draws, scale_factor=field, mode="nearest")[..., :height, :width]
    return pixels + rng.uniform(6, 30) / 255 * large


def grain(pixels: Tensor, rng: Random) -> Tensor:
    """Grey noise of 5 to 25 grey levels, blurred by 0.5 to 1.5 px."""
    width = rng.uniform(0.5, 1.5)
    draws = gaussian_filter(rng.standard_normal(pixels[:, :1].shape), (0, 0, width, width))
    return pixels + torch.from_numpy(draws / draws.std()).float() * rng.uniform(5, 25) / 255


SPOILING: dict[str, Callable[[Tensor, Random], Tensor]] = {
    "noise": degrade.noise,
    "blocks": blocks,
    "grain": grain,
    "blur": degrade.blur,
    "shrink": degrade.shrink,
    "jpeg": degrade.jpeg,
}


def varied(pixels: Tensor, rng: Random) -> Tensor:
    """What still is a good photo (n, 3, h, w): lighter, flatter, softer, with a trace of noise."""
    low, gain = rng.uniform(-0.06, 0.06), rng.uniform(0.85, 1.15)
    changed = gain * (pixels - 0.5) + 0.5 + low
    if rng.random() < 0.5:
        sigma = rng.uniform(0.2, 0.8)
        changed = gaussian_blur(changed, [5, 5], [sigma, sigma])
    if rng.random() < 0.3:
        changed = grainy(changed, rng.uniform(0, 2.5), rng)
    changed = changed.clamp(0, 1)
    return recompressed(changed, int(rng.integers(75, 96))) if rng.random() < 0.3 else changed


def examples(pixels: Tensor, rng: Random) -> tuple[Tensor, list[str], Tensor]:
    """Every second portrait of (n, 3, h, w) spoilt, captions, and which caption fits which (n, n).

    Every second caption of a spoilt portrait says only that it is bad, and fits all of these.
    """
    made, captions, kinds, told = [], [], [], []
    for number, portrait in enumerate(pixels.split(1)):
        kind = str(rng.choice(list(SPOILING))) if number % 2 else GOOD
        good = varied(portrait, rng)
        made.append(SPOILING[kind](good, rng).clamp(0, 1) if number % 2 else good)
        word = kind if number % 4 != 3 else BAD
        captions.append(_caption(str(rng.choice(_WORDS[word])), str(rng.choice(_VIEWS))))
        kinds.append(kind)
        told.append(word)
    fits = [[t == k or (t == BAD and k != GOOD) for k in kinds] for t in told]
    return torch.cat(made), captions, torch.tensor(fits)


def captions() -> Iterator[str]:
    """All captions that there are."""
    for words in _WORDS.values():
        yield from (_caption(*each) for each in product(words, _VIEWS))


def _caption(word: str, view: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word} {view}"


def build_judge(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP with smaller patches and narrower towers than a base model's."""
    return build_clip(tokenizer, WIDTH, LAYERS, PATCH)


def judge_loss(judge: CLIPModel, tokens: Tensor, pixels: Tensor, fits: Tensor) -> Tensor:
    """Contrastive loss with several right answers, each of which counts: "bad" means every kind of
    bad (Khosla et al. 2020, arXiv 2004.11362, eq. 2).

    tokens: (n, length). pixels: (n, 3, h, w) in [0, 1]. fits: (captions, images).
    """
    scaled = (pixels - PIXEL_MEAN) / PIXEL_STD
    logits = judge(input_ids=tokens, pixel_values=scaled).logits_per_text.float()
    losses = [
        (logits.log_softmax(side) * fits).sum(side).div(fits.sum(side)).neg().mean()
        for side in (0, 1)
    ]
    return torch.stack(losses).mean()
