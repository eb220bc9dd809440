"""Photos in and out: pixels are float32 RGB in [0, 1], shape (n, 3, h, w); files are 8-bit PNG."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError, features

from cloakbench.errors import CloakBenchError, reason
from cloakbench.files.bundle import bundled
from cloakbench.files.outputs import new_file
from cloakbench.files.verified import verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
    | {".heic", ".heif"}
)
NOT_PHOTOS = frozenset({"job.json", "Thumbs.db"})  # a stage's manifest; a file manager's cache
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(RuntimeError, struct.error),
)
"""What Pillow raises for broken files, depending on the format and the place of the damage."""
_PHOTO_AND_MORE = {"MPO", "HEIF"}  # beside the photo: a preview, a depth map, brighter highlights
_INTEROP_INDEX = 1
_ADOBE_TO_SRGB = np.array([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]])
SMALLEST_SIDE = 32  # px; enlarging less than this invents more of a face than it shows


class Photos(NamedTuple):
    """Images of one size with the file stems that they keep through every stage.

    pixels: float32 RGB, shape (n, 3, h, w), range [0, 1].
    """

    pixels: Tensor
    names: tuple[str, ...]


def is_photo(path: Path) -> bool:
    """Whether a file is a photo by its name; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def photo_files(folder: Path, beside: Iterable[str] = ()) -> list[Path]:
    """Every photo in a folder, sorted by name, or the one that is named; hidden files and those
    named in `beside` are none.

    Raises:
        CloakBenchError: the folder is missing, or holds a file that is no photo; or a stage made
            it, and it is not as the stage left it.
    """
    folder = bundled(folder)
    if not folder.exists():
        raise CloakBenchError(f"{folder}: no such photo or folder of photos. Check the path.")
    others = NOT_PHOTOS.union(beside)
    files = (
        [folder]
        if not folder.is_dir()
        else sorted(
            path
            for path in folder.iterdir()
            if not path.is_dir() and not path.name.startswith(".") and path.name not in others
        )
    )
    verified(folder)
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
        _check_regular(path)
    return files


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # to open a pipe is to wait for ever
        raise CloakBenchError(f"{path}: is a folder, pipe or device, not a file. Remove it.")


@cache
def _add_heic() -> None:
    """Teach Pillow the format."""
    from pillow_heif import register_heif_opener

    register_heif_opener()


def read_photo(path: Path) -> Image.Image:
    """Read one photo as upright 8-bit sRGB, whatever its mode and colours; metadata goes.

    Grey, palette, CMYK and 16-bit photos are converted, colours are those that the ICC profile
    says, transparency is laid on white and the EXIF orientation is applied.

    Raises:
        CloakBenchError: the file is empty, truncated, no image, several images, of values whose
            range is unknown, or smaller than 32 px.
    """
    _check_regular(path)
    image = _decoded(path)
    if (what := {"F": "floating-point", "I": "32-bit"}.get(image.mode)) is not None:
        raise CloakBenchError(
            f"{path}: has {what} values, whose range is unknown. Save it with 8 bits."
        )
    if min(image.size) < SMALLEST_SIDE:
        raise CloakBenchError(
            f"{path}: is {image.width}x{image.height} px; at least {SMALLEST_SIDE} px on each "
            "side are needed. Replace or remove it."
        )
    rgb = _to_rgb(image, path)
    rgb.info.clear()
    return rgb


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of an upright photo [px], without reading its pixels.

    Raises:
        CloakBenchError: the file is empty or no image.
    """
    _check_regular(path)
    with _opened(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return (image.height, image.width) if turned else image.size


def _decoded(path: Path) -> Image.Image:
    """The one image of a file, upright."""
    with _opened(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in _PHOTO_AND_MORE:
            raise CloakBenchError(
                f"{path}: has {frames} images, as animations have. Save the one that is meant."
            )
        image.load()
        return ImageOps.exif_transpose(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file's image; what fails in opening and reading it is one line."""
    _add_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # photos may be large
            image = Image.open(path)
        with image:
            yield image
    except UnidentifiedImageError:
        raise CloakBenchError(f"{path}: {_unidentified(path)}") from None
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
            f"{path}: is corrupt or truncated ({reason(error)}). Replace or remove it."
        ) from None


def _unidentified(path: Path) -> str:
    """What a file is that Pillow does not know, and what to do."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "is empty. Replace or remove it."
    brand = head[8:] if head[4:8] == b"ftyp" else b""
    if brand in {b"avif", b"avis"} and not features.check("avif"):
        return "is AVIF, which this Pillow cannot read. Run `pip install --upgrade pillow`."
    return "is not an image. Replace or remove it."


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips instead of scaling
        levels = np.asarray(image, dtype=np.float64) / 257.0
        image = Image.fromarray(np.clip(levels.round(), 0, 255).astype(np.uint8))
    rgb = _to_srgb(image, profile, path)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgb.putalpha(image.convert("RGBA").getchannel("A"))
        white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgb).convert("RGB")
    return rgb


def _to_srgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """The colours that a profile says; a profile for another kind of pixels says nothing."""
    plain = image.convert("RGB")
    if not profile:
        return _from_adobe_rgb(plain) if _is_adobe_rgb(image) else plain
    from PIL import ImageCms

    own = {"CMYK": "CMYK", "L": "GRAY", "LA": "GRAY", "1": "GRAY"}.get(image.mode, "RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = given.profile.xcolor_space.strip()
        if space != own and (own, space) != ("GRAY", "RGB"):
            return plain
        pixels = plain if space == "RGB" else image.convert({"GRAY": "L"}.get(space, space))
        converted = ImageCms.profileToProfile(
            pixels,
            given,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, *_UNREADABLE) as error:
        log.warning("%s: its colour profile is broken (%s); read as sRGB.", path, reason(error))
        return plain
    assert converted is not None
    change = int(np.asarray(ImageChops.difference(plain, converted)).max())
    return converted if change > 1 else plain  # sRGB has many profiles, which differ by rounding


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF alone says so, as cameras do: by the index of the DCF's optional colours."""
    try:
        colours = image.getexif().get_ifd(ExifTags.IFD.Interop)
    except KeyError:  # what some versions of Pillow say of a photo that has none
        return False
    return colours.get(_INTEROP_INDEX) == "R03"


def _from_adobe_rgb(image: Image.Image) -> Image.Image:
    """Adobe RGB (1998) to sRGB (IEC 61966-2-1), which have one white."""
    linear = (np.asarray(image, dtype=np.float64) / 255) ** (563 / 256) @ _ADOBE_TO_SRGB.T
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray((255 * curved).round().astype(np.uint8))


def square_crop(
    image: Image.Image, resolution: int, around: tuple[float, float] | None = None
) -> Image.Image:
    """Crop the largest square and resize it to resolution x resolution px (Lanczos).

    around: the point [px] that it has in its middle, as far as the image reaches; the centre if
        None.
    """
    box = square_box(image.size, around)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def square_box(
    size: tuple[int, int], around: tuple[float, float] | None = None
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest square of an image [px]; see `square_crop`."""
    side = min(size)
    middle = around or (size[0] / 2, size[1] / 2)
    rooms = [length - side for length in size]
    left, top = (min(max(p - side / 2, 0), room) for p, room in zip(middle, rooms, strict=True))
    return left, top, left + side, top + side


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
    """Load every photo of a folder, or one; all must share one size, as a stage's output does.

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

    return clamped(interpolate(pixels, tuple(size), mode="bicubic", antialias=True))


def clamped(pixels: Tensor) -> Tensor:
    """Values cut to [0, 1], with a gradient where nothing is cut; torch's has none at 0 and 1."""
    cut = pixels.detach().clamp(0, 1)
    return pixels.where(pixels == cut, cut)


def largest_change(changed: Iterable[Image.Image], original: Iterable[Image.Image]) -> int:
    """The largest difference of any channel value between two image sequences, in grey levels."""
    pairs = zip(changed, original, strict=True)
    return max(
        int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs
    )


def changes(pairs: Iterable[tuple[Image.Image, Image.Image]]) -> tuple[int, float]:
    """The largest change of any image from its original, in grey levels, and the mean PSNR [dB] of
    those that changed, NaN if none did.
    """
    largest, ratios = 0, []
    for changed, original in pairs:
        if change := largest_change([changed], [original]):
            largest = max(largest, change)
            ratios.append(signal_to_noise(changed, original))
    return largest, float(np.mean(ratios)) if ratios else math.nan


def signal_to_noise(changed: Image.Image, original: Image.Image) -> float:
    """The peak signal-to-noise ratio of an RGB image to its original [dB]; infinite if equal."""
    a, b = np.asarray(changed, np.float64), np.asarray(original, np.float64)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf
