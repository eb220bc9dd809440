"""Targets: what targeted protections draw a photo's latents to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field, ValidationInfo

from cloakbench.files.images import read_photo, to_pixels
from cloakbench.files.weights import WeightFile, weights_in
from cloakbench.protect.base import Protection
from cloakbench.settings import UserPath

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel

T = TypeVar("T")

WORD = (
    "................................",
    "..###..#......###...###..#..#...",
    ".#...#.#.....#...#.#...#.#.#....",
    ".#.....#.....#...#.#...#.##.....",
    ".#.....#.....#...#.#####.##.....",
    ".#...#.#.....#...#.#...#.#.#....",
    "..###..#####..###..#...#.#..#...",
    "................................",
)


def draw_target(width: int, height: int) -> Image.Image:
    """The word CLOAK in four lines, white on black and black on white in turns.

    As much contrast as there is, in strokes of 1/32 of the side: 4 px at 128 px, which the VAE of
    the miniature can still show, 16 px at 512 px.
    """
    line = np.array([[character == "#" for character in row] for row in WORD])
    pattern = np.concatenate([line, ~line, line, ~line])
    image = Image.fromarray(255 * pattern.astype(np.uint8)).convert("RGB")
    return image.resize((width, height), Image.Resampling.NEAREST)


def check_target(value: T, info: ValidationInfo, *, used: bool, say: str) -> T:
    """A setting's value, after a look whether a photo that is named as target is used by it.

    Raises:
        ValueError: it is not.
    """
    if not used and info.data.get("target"):
        raise ValueError(f"leaves the photo in `target` unused: set {say}, or name no target")
    return value


class TargetedProtection(Protection):
    """Shared by protections with a target image: our pattern, or a photo of the user's."""

    target: UserPath | None = Field(
        None, description="photo whose latents are the target; null: the word CLOAK in four lines"
    )

    def files(self) -> Iterable[WeightFile]:
        """The photo that is the target, if one is named: results depend on it as on weights."""
        if self.target is None:
            return []
        read_photo(self.target)
        return weights_in(self.target)

    def target_latents(self, photos: Tensor, model: DiffusionModel) -> Tensor:
        """Scaled latents (1, c, h/8, w/8) of the target at the size of photos (n, 3, h, w)."""
        height, width = photos.shape[-2:]
        if self.target is None:
            image = draw_target(width, height)
        else:
            image = ImageOps.fit(read_photo(self.target), (width, height), Image.Resampling.LANCZOS)
        return model.mode(model.posterior_once(to_pixels([image])))
