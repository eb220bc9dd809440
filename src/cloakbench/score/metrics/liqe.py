"""Blind image quality from a fine-tuned CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.errors import CloakBenchError, every
from cloakbench.files.weights import (
    OPENAI_CLIP,
    WeightFile,
    check_pytorch_weights,
    find_clip,
    find_weights,
    weights_in,
)
from cloakbench.score.base import NetworkMetric, Sample, metrics

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

WEIGHTS = "https://github.com/zwx8981/IQA-PyTorch/releases/download/Weights/liqe_mix.pt"
PATCHES, STRIDE = 15, 32  # at most so many squares, cut at every 32nd pixel
LEVELS = ("bad", "poor", "fair", "good", "perfect")
SCENES = (
    *("animal", "cityscape", "human", "indoor", "landscape", "night", "plant", "still_life"),
    "others",
)
DISTORTIONS = (
    *("jpeg2000 compression", "jpeg compression", "noise", "blur", "color", "contrast"),
    *("overexposure", "underexposure", "spatial", "quantization", "other"),
)


@metrics.register("liqe")
class LIQE(NetworkMetric):
    """Language-image quality evaluator: the expected level between 1 (bad) and 5 (perfect).

    A fine-tuned CLIP compares squares of its own side, cut from the image at its own resolution,
    with "a photo of a <scene> with <distortion> artifacts, which is of <level> quality". Images
    smaller than a square (224 px) are an error.
    """

    source: ClassVar[str] = (
        "Zhang et al. 2023, Blind Image Quality Assessment via Vision-Language Correspondence, "
        "arXiv 2303.14968; weights `liqe_mix` as in DiffShortcut (recipes 5.3)"
    )
    presets: ClassVar = {"tiny": {"weights": "tiny_liqe.pt", "clip": "tiny_clip"}}
    title: ClassVar = "LIQE"
    protects: ClassVar = "lower"
    bounds: ClassVar = (1.0, 5.0)
    reads: ClassVar = frozenset({"pixels"})
    needs: ClassVar = frozenset({"gpu"})
    display: ClassVar[str] = ".2f"
    smallest_side: ClassVar = 224

    weights: str = Field(
        "liqe_mix.pt",
        description="file of its weights here, in $CLOAKBENCH_WEIGHTS or in ~/.cache/cloakbench",
    )
    clip: str = Field(
        OPENAI_CLIP,
        description="folder or hub id of the CLIP that was fine-tuned: its sizes and tokenizer",
    )

    def files(self) -> Iterable[WeightFile]:
        found = every(
            [
                lambda: check_pytorch_weights(find_weights(self.weights, WEIGHTS), WEIGHTS),
                lambda: find_clip(self.clip),
            ]
        )
        return [each for path in found for each in weights_in(path)]

    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        return [_judge(self, device)(sample.image) for sample in samples]


@cache
def _judge(settings: LIQE, device: str) -> Callable[[Image.Image], float]:
    import torch

    from cloakbench.models.clip import Clip, load_openai

    path = find_weights(settings.weights, WEIGHTS)
    clip = Clip.load(settings.clip, device, partial(load_openai, path=path, source=WEIGHTS))
    side = clip.network.config.vision_config.image_size
    texts = clip.embed_texts(
        [
            f"a photo of a {scene} with {distortion} artifacts, which is of {level} quality"
            for level, scene, distortion in product(LEVELS, SCENES, DISTORTIONS)
        ]
    )
    levels = torch.arange(1.0, len(LEVELS) + 1)

    def judge(image: Image.Image) -> float:
        if min(image.size) < side:
            raise CloakBenchError(
                f"metric 'liqe' needs images of {side} px or more, these have {image.width}x"
                f"{image.height} px. Leave it out for this model."
            )
        whole = clip.processor.image_processor(
            image, do_resize=False, do_center_crop=False, return_tensors="pt"
        )["pixel_values"][0]
        logits = clip.scale * clip.embed_pixels(squares(whole, side)) @ texts.T
        joint = logits.mean(0).softmax(0)
        return float(joint.view(len(LEVELS), -1).sum(1) @ levels)

    return judge


def squares(pixels: Tensor, side: int) -> Tensor:
    """At most 15 squares (n, 3, side, side) of an image (3, h, w), evenly among those that start
    at every 32nd pixel, row by row.
    """
    grid = pixels.unfold(1, side, STRIDE).unfold(2, side, STRIDE)
    found = grid.flatten(1, 2).transpose(0, 1)
    return found[:: max(1, len(found) // PATCHES)][:PATCHES]
