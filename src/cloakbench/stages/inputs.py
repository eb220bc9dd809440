"""What stages are given: folders of photos that belong together."""

from __future__ import annotations

from pathlib import Path

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, load_photos


def needed(folder: Path | None, option: str, method: str) -> Path:
    """A folder that a method cannot do without.

    Raises:
        CloakBenchError: it is not given.
    """
    if folder is None:
        raise CloakBenchError(
            f"'{method}' needs {option} FOLDER. Give it, or choose another method."
        )
    return folder


def other_photos(folder: Path | None, option: str, method: str, photos: Photos, of: Path) -> Photos:
    """Photos that a method needs beside its instance images: surrogate or class images.

    folder: where they are, as `option` says. photos: the instance images, of the folder `of`.

    Raises:
        CloakBenchError: no folder is given, or its photos are of another size.
    """
    others = load_photos(needed(folder, option, method))
    if others.pixels.shape[1:] != photos.pixels.shape[1:]:
        (height, width), (h, w) = (each.pixels.shape[-2:] for each in (others, photos))
        raise CloakBenchError(
            f"{folder}: photos of {width}x{height} px, but {of} has {w}x{h} px. Bring them to one "
            "size: `cloakbench data` for photos, --model for class images."
        )
    return others
