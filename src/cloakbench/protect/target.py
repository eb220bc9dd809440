"""Targets: what targeted protections draw a photo's latents to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from cloakbench.images import read_photo, to_pixels
from cloakbench.protect.base import Protection
from cloakbench.units import UserPath
from cloakbench.weights import note

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion

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


class TargetedProtection(Protection):
    """Shared by protections with a target image: our pattern, or a photo of the user's."""

    target: UserPath | None = Field(
        None, description="photo whose latents are the target; null: the word CLOAK in four lines"
    )

    def check(self) -> None:
        if self.target is not None:
            read_photo(note(self.target))

    def target_latents(self, photo: Tensor, model: LatentDiffusion) -> Tensor:
        """Scaled latents (1, c, h/8, w/8) of the target at the size of a photo (1, 3, h, w)."""
        height, width = photo.shape[-2:]
        if self.target is None:
            image = draw_target(width, height)
        else:
            image = ImageOps.fit(read_photo(self.target), (width, height), Image.Resampling.LANCZOS)
        return model.mode(model.posterior_once(to_pixels([image])))
