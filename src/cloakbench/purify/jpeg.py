"""JPEG compression."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import Field

from cloakbench.files.images import to_images, to_pixels
from cloakbench.purify.base import PhotoPurifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job


@purifiers.register("jpeg")
class JPEG(PhotoPurifier):
    """Encodes and decodes each photo as JPEG in memory, with Pillow's 4:2:0 chroma."""

    source = "DiffShortcut defenses/jpeg.py (recipes 2)"
    presets = {"paper": {"quality": 75}, "mini": {"quality": 75}, "tiny": {"quality": 75}}

    quality: int = Field(75, ge=1, le=95, description="libjpeg's quality")

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        return to_pixels([self._round_trip(image) for image in to_images(pixels)])

    def _round_trip(self, image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=self.quality)
        with Image.open(buffer) as decoded:
            return decoded.convert("RGB")
