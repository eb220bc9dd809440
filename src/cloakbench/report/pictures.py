"""Small pictures that live inside the HTML file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import photo_files, read_photo

SIDE = 256  # px, longest side of a picture in the report
QUALITY = 80  # WebP; about 8 kB for a portrait of 256 px
GAIN = 10  # magnification of a perturbation


def embed(image: Image.Image) -> str:
    """A data URI of the image as WebP, at most `SIDE` px; smaller images keep their size."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def magnify(changed: Image.Image, original: Image.Image) -> Image.Image:
    """The difference of two RGB images around middle grey: 127 + 10 * difference, clipped."""
    difference = np.asarray(changed, np.int16) - np.asarray(original, np.int16)
    return Image.fromarray(np.clip(127 + GAIN * difference, 0, 255).astype(np.uint8))


def first(folder: Path, count: int) -> dict[str, Image.Image]:
    """The first photos of a folder by name, keyed by stem."""
    return {path.stem: read_photo(path) for path in photo_files(folder)[:count]}


def perturbations(
    protected: dict[str, Image.Image], originals: dict[str, Image.Image]
) -> list[str]:
    """Magnified differences of protected photos to their originals, as data URIs.

    Raises:
        CloakBenchError: a photo has no original of its name and size.
    """
    pictures = []
    for stem, image in protected.items():
        if stem not in originals or originals[stem].size != image.size:
            raise CloakBenchError(
                f"protected photo '{stem}' has no original of its name and size. "
                "Run `cloakbench protect` again."
            )
        pictures.append(embed(magnify(image, originals[stem])))
    return pictures
