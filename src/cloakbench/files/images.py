"""Photos in and out: pixels are float32 RGB in [0, 1], shape (n, 3, h, w); files are 8-bit PNG."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cloakbench.errors import CloakBenchError
from cloakbench.files.bundle import bundled
from cloakbench.files.outputs import new_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
NOT_PHOTOS = frozenset({"job.json", "Thumbs.db"})  # a stage's manifest; a file manager's cache
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error)
"""What Pillow raises for broken files, depending on the format and the place of the damage."""
SMALLEST_SIDE = 32  # px; enlarging less than this invents more of a face than it shows


class Photos(NamedTuple):
    """Images of one size with the file stems that they keep through every stage.

    pixels: float32 RGB, shape (n, 3, h, w), range [0, 1].
    """

    pixels: Tensor
    names: tuple[str, ...]


def photo_files(folder: Path, beside: Iterable[str] = ()) -> list[Path]:
    """Every photo in a folder, sorted by name; hidden files and those named in `beside` are none.

    Raises:
        CloakBenchError: the folder is missing, or holds a file that is no photo.
    """
    folder = bundled(folder)
    if not folder.is_dir():
        raise CloakBenchError(f"{folder}: no such folder of photos. Check the path.")
    others = NOT_PHOTOS.union(beside)
    files = sorted(
        path
        for path in folder.iterdir()
        if not path.is_dir() and not path.name.startswith(".") and path.name not in others
    )
    for path in files:
        if not path.exists():
            raise CloakBenchError(
                f"{path}: is a link to {os.readlink(path)}, which is not there. Bring that file "
                "back, or remove the link."
            )
        if path.suffix.lower() not in SUFFIXES:
            raise CloakBenchError(
                f"{path}: not a photo ({', '.join(sorted(SUFFIXES))}). Move it out of the folder."
            )
    return files


def read_photo(path: Path) -> Image.Image:
    """Read one photo as upright 8-bit RGB, whatever its mode.

    Grey, palette, CMYK and 16-bit photos are converted, transparency is laid on white and the
    EXIF orientation is applied.

    Raises:
        CloakBenchError: the file is empty, truncated, no image, or smaller than 32 px.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        state = "is empty" if path.stat().st_size == 0 else "is not an image"
        raise CloakBenchError(f"{path}: {state}. Replace or remove it.") from None
    except Image.DecompressionBombError:
        raise CloakBenchError(
            f"{path}: claims more pixels than a photo has. Remove it, or make a smaller copy."
        ) from None
    except _UNREADABLE as error:
        if not path.exists():
            raise CloakBenchError(f"{path}: no such photo. Check the path.") from None
        if isinstance(error, PermissionError):
            raise CloakBenchError(f"{path}: cannot be read. Change its permissions.") from None
        raise CloakBenchError(
            f"{path}: is corrupt or truncated ({error}). Replace or remove it."
        ) from None
    if image.mode == "F":
        raise CloakBenchError(
            f"{path}: has floating-point values, whose range is unknown. Save it with 8 bits."
        )
    if min(image.size) < SMALLEST_SIDE:
        raise CloakBenchError(
            f"{path}: is {image.width}x{image.height} px; at least {SMALLEST_SIDE} px on each "
            "side are needed. Replace or remove it."
        )
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        levels = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.clip(levels.round(), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Crop the central square and resize it to resolution x resolution px (Lanczos)."""
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Stack RGB images of one size into float32 pixels (n, 3, h, w) in [0, 1]."""
    import torch

    stacked = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Round pixels (n, 3, h, w) in [0, 1] to the nearest of 256 levels."""
    levels = pixels.detach().clamp(0, 1).mul(255).round().byte().cpu()
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).numpy()]


def load_photos(folder: Path | str) -> Photos:
    """Load every photo of a folder; all must share one size, as a stage's output does.

    Raises:
        CloakBenchError: the folder is missing or empty, a file is not a photo, or sizes differ.
    """
    files = photo_files(Path(folder))
    if not files:
        raise CloakBenchError(f"{folder}: no photos in this folder. Check the path.")
    names = tuple(path.stem for path in files)
    if twins := [path.name for path in files if names.count(path.stem) > 1]:
        raise CloakBenchError(
            f"{folder}: {twins[0]} and {twins[1]} have one name. Rename one; results are PNG files."
        )
    images = [read_photo(path) for path in files]
    for path, image in zip(files, images, strict=True):
        if image.size != images[0].size:
            raise CloakBenchError(
                f"{path}: is {image.width}x{image.height} px but {files[0].name} is "
                f"{images[0].width}x{images[0].height} px. Run `cloakbench data` first."
            )
    return Photos(to_pixels(images), names)


def save_photos(photos: Photos, folder: Path) -> None:
    """Write 8-bit PNG files named after the photos into an existing folder, each whole or not."""
    for name, image in zip(photos.names, to_images(photos.pixels), strict=True):
        with new_file(folder / f"{name}.png") as part:
            image.save(part, format="PNG")


def resized(pixels: Tensor, size: Sequence[int]) -> Tensor:
    """Pixels (n, 3, h, w) at another height and width: bicubic, antialiased, clamped to [0, 1]."""
    from torch.nn.functional import interpolate

    return interpolate(pixels, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def largest_change(changed: Iterable[Image.Image], original: Iterable[Image.Image]) -> int:
    """The largest difference of any channel value between two image sequences, in grey levels."""
    pairs = zip(changed, original, strict=True)
    return max(
        int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs
    )
