"""One's own photos: gathered as they come, cut to squares, and given back at their size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cloakbench.errors import CloakBenchError, counted
from cloakbench.faces import FaceBackend, largest
from cloakbench.files.images import (
    NOT_PHOTOS,
    SUFFIXES,
    largest_change,
    photo_files,
    read_photo,
    square_box,
)
from cloakbench.files.outputs import MANIFEST, new_folder
from cloakbench.files.verified import load_manifest
from cloakbench.files.weights import sha256_of
from cloakbench.running.record import Facts, Record
from cloakbench.running.run import is_made

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

FEWEST, MOST = 2, 50
SEARCHED = 640  # px, longest side of the copy that is searched for faces

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a photo's square [px]."""


def gather(places: Sequence[Path]) -> dict[str, Path]:
    """One person's photos by their names without suffix, from folders and files.

    Other files in a folder, such as videos, are left out with a warning.

    Raises:
        CloakBenchError: too few or too many photos, or two of one name; see `photo_files`.
    """
    files = list(dict.fromkeys(path for place in places for path in _photos(place)))
    if not FEWEST <= len(files) <= MOST:
        within = sorted(
            p for place in places if place.is_dir() for p in place.iterdir() if p.is_dir()
        )
        named = f"a folder in it, such as {within[0]}" if within else "other photos or folders"
        raise CloakBenchError(
            f"{', '.join(map(str, places))}: {counted(len(files), 'photo')}, but {FEWEST} "
            f"to {MOST} of one person are tried. Name {named}."
        )
    found: dict[str, Path] = {}
    for path in files:
        if (other := found.setdefault(path.stem, path)) != path:
            raise CloakBenchError(
                f"{path} and {other} have one name. Rename one; results are PNG files."
            )
    return found


def _photos(place: Path) -> list[Path]:
    if not place.is_dir():
        return photo_files(place)
    others = [p.name for p in sorted(place.iterdir()) if p.suffix.lower() not in SUFFIXES]
    for name in others:
        if (place / name).is_file() and not name.startswith(".") and name not in NOT_PHOTOS:
            log.warning("%s: is no photo, and is left out.", place / name)
    return photo_files(place, beside=others)


def cut(
    named: Mapping[str, Path], out: Path, resolution: int, backend: FaceBackend
) -> dict[str, Box]:
    """Write the largest square of each photo, around its face, at the model's size.

    Writes `out/NAME.png`, unless that is there already.

    Returns:
        Each photo's square; its centre where no face is found, with a warning.
    """
    facts = Facts.of("cut", __name__, {"resolution": resolution}, backend)
    digests = sha256_of(named.values())
    record = Record(facts, {"originals": {name: digests[path] for name, path in named.items()}})
    if not is_made(out, record):
        images = {name: read_photo(path) for name, path in named.items()}
        boxes = {name: _box(image, named[name], backend) for name, image in images.items()}
        with new_folder(out, record.manifest() | {"boxes": boxes}) as folder:
            for name, image in images.items():
                _square(image, boxes[name], resolution).save(folder / f"{name}.png")
    said = load_manifest(out / MANIFEST) or {}
    return {name: (box[0], box[1], box[2], box[3]) for name, box in said["boxes"].items()}


def _box(image: Image.Image, path: Path, backend: FaceBackend) -> Box:
    copy = image.copy()
    copy.thumbnail((SEARCHED, SEARCHED))
    around = None
    if (face := largest(backend.faces(copy))) is None:
        log.warning("%s: no face is found. Its central square is used.", path)
    else:
        left, top, right, bottom = (edge * image.width / copy.width for edge in face.box)
        around = (left + right) / 2, (top + bottom) / 2
    left, top, _, _ = map(round, square_box(image.size, around))
    side = min(image.size)
    return left, top, left + side, top + side


def _square(image: Image.Image, box: Box, resolution: int) -> Image.Image:
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def give_back(
    named: Mapping[str, Path],
    boxes: Mapping[str, Box],
    squares: Path,
    protected: Path,
    out: Path,
    budget: int,
) -> None:
    """Write the photos at their own size, with the perturbation of their squares enlarged.

    What lies outside of a square stays as it is. Writes `out/NAME.png`, unless it is there.

    budget: in grey levels; enlarging may overshoot it, and is clipped.

    Raises:
        CloakBenchError: a saved file exceeds the budget.
    """
    given = {"squares": squares, "protected": protected}
    digests = sha256_of(named.values())
    who = {"originals": {name: digests[path] for name, path in named.items()}}
    record = Record.of(Facts.of("give_back", __name__, {"budget": budget}), who, given)
    if is_made(out, record):
        return
    with new_folder(out, record.manifest()) as folder:
        for name, path in named.items():
            original = read_photo(path)
            change = _levels(protected / f"{name}.png") - _levels(squares / f"{name}.png")
            made = _changed(original, boxes[name], change, budget)
            made.save(folder / f"{name}.png")
            if (most := largest_change([read_photo(folder / f"{name}.png")], [original])) > budget:
                raise CloakBenchError(
                    f"{out / name}.png: differs by {most}/255 from the original, the budget is "
                    f"{budget}/255. A bug in cloakbench."
                )


def _changed(original: Image.Image, box: Box, change: np.ndarray, budget: int) -> Image.Image:
    """A photo with a change (r, r, 3) of its square in grey levels, at the square's own size."""
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
        for plane in change.transpose(2, 0, 1)
    ]
    enlarged = np.stack(planes, axis=2)
    pixels = np.asarray(original, np.float32).copy()
    pixels[top:bottom, left:right] += enlarged.clip(-budget, budget).round()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def cut_again(given_back: Path, boxes: Mapping[str, Box], out: Path, resolution: int) -> None:
    """What a model is trained on, of photos that were given back: the same squares, cut anew."""
    facts = Facts.of("cut_again", __name__, {"resolution": resolution, "boxes": dict(boxes)})
    record = Record.of(facts, {}, {"photos": given_back})
    if is_made(out, record):
        return
    with new_folder(out, record.manifest()) as folder:
        for path in photo_files(given_back):
            _square(read_photo(path), boxes[path.stem], resolution).save(folder / path.name)


def left_over(squares: Path, protected: Path, again: Path) -> float:
    """The share of a perturbation that is left after enlarging and cutting, by its mean square."""
    made, kept = (
        sum(float(np.square(change).sum()) for change in _differences(each, squares))
        for each in (protected, again)
    )
    return (kept / made) ** 0.5 if made else 1.0


def _differences(photos: Path, originals: Path) -> Iterator[np.ndarray]:
    for path in photo_files(photos):
        yield _levels(path) - _levels(originals / path.name)


def _levels(path: Path) -> np.ndarray:
    return np.asarray(read_photo(path), np.float32)
