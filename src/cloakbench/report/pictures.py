"""Pictures that live inside the HTML file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import photo_files, read_photo

SIDE = 512  # px, longest side of a whole picture in the report
PREVIEW = 256  # px, of the others; smaller ones are whole anyway
QUALITY = 80  # of WebP with losses; about 8 kB for a portrait of 256 px
GAIN = 10  # magnification of a perturbation


class Picture(NamedTuple):
    """A picture as a data URI, its size as embedded [px], what it shows in words, and a key that
    it shares with those that it is compared with: those of the same photo, or of the same draw.
    """

    uri: str
    width: int
    height: int
    words: str
    key: str

    @property
    def small(self) -> bool:
        """Whether pages enlarge it, and should show its pixels as they are."""
        return max(self.width, self.height) < PREVIEW


def embed(
    image: Image.Image, words: str, key: str = "", side: int = PREVIEW, exact: bool = False
) -> Picture:
    """A picture of at most `side` px; smaller images keep their size.

    exact: without losses, which would change a perturbation; takes ten times the space.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Picture(data_uri(small, exact=exact), *small.size, words, key)


def data_uri(image: Image.Image, quality: int = QUALITY, exact: bool = False) -> str:
    """An image as WebP inside a page; exact: without losses."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=exact, quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def photos(images: dict[str, Image.Image], words: str, whole: bool = False) -> list[Picture]:
    """Pictures of photos by stem, exact where that is small, and in any case the first.

    whole: all of them at `SIDE`, and not the first alone.
    """
    return [
        embed(image, f"{words}, photo {number}", f"photo:{stem}", *_room(number, image, whole))
        for number, (stem, image) in enumerate(images.items(), 1)
    ]


def samples(
    images: dict[str, Image.Image], words: str, prompt: str, whole: bool = False
) -> list[Picture]:
    """Pictures of a prompt's samples by stem: the first whole, the others as previews.

    whole: as of `photos`.
    """
    return [
        embed(
            image,
            f"{words}, sample {number}",
            f"sample:{prompt} {stem}",
            _room(number, image, whole)[0],
        )
        for number, (stem, image) in enumerate(images.items(), 1)
    ]


def _room(number: int, image: Image.Image, whole: bool) -> tuple[int, bool]:
    """The side of a picture, and whether it is exact."""
    return SIDE if whole or number == 1 else PREVIEW, number == 1 or max(image.size) <= PREVIEW


def magnify(changed: Image.Image, original: Image.Image) -> Image.Image:
    """The difference of two RGB images around middle grey: 127 + 10 * difference, clipped."""
    difference = np.asarray(changed, np.int16) - np.asarray(original, np.int16)
    return Image.fromarray(np.clip(127 + GAIN * difference, 0, 255).astype(np.uint8))


def first(folder: Path, count: int) -> dict[str, Image.Image]:
    """The first photos of a folder by name, keyed by stem."""
    return {path.stem: read_photo(path) for path in photo_files(folder)[:count]}


def perturbations(
    protected: dict[str, Image.Image],
    originals: dict[str, Image.Image],
    words: str,
    whole: bool = False,
) -> list[Picture]:
    """Magnified differences of protected photos to their originals.

    whole: as of `photos`.

    Raises:
        CloakBenchError: a photo has no original of its name and size.
    """
    made = []
    for number, (stem, image) in enumerate(protected.items(), 1):
        if stem not in originals or originals[stem].size != image.size:
            raise CloakBenchError(
                f"protected photo '{stem}' has no original of its name and size. "
                "Run `cloakbench protect` again."
            )
        magnified = magnify(image, originals[stem])
        text = f"{words}, photo {number}"
        made.append(embed(magnified, text, f"photo:{stem}", _room(number, image, whole)[0]))
    return made
