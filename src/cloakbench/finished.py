"""Photos that another tool has finished: matched by name, read as they are, measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image
from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import (
    Photos,
    changes,
    photo_files,
    photo_size,
    read_photo,
    to_images,
    to_pixels,
)
from cloakbench.registry import Method
from cloakbench.settings import UserPath

if TYPE_CHECKING:
    from cloakbench.files.layout import Cell
    from cloakbench.files.weights import WeightFile
    from cloakbench.running.jobs import Job

COARSE = (16, 16)  # px at which photos are told apart, and perturbations are gone


class Finished(Method):
    """Shared by methods that take finished photos from a folder.

    They are called as the photos that they were made of, of any suffix, and have their size.
    """

    path: UserPath = Field(
        description="folder of the finished photos; in a config, of a folder for each identity"
    )

    @property
    def folders(self) -> dict[str, Path]:
        return {"path": self.path}

    def of(self, cell: Cell) -> Self:
        return self.model_copy(update={"path": self.path / cell.identity})

    def files(self) -> Iterable[WeightFile]:
        """None, but the folder is looked for."""
        if not self.path.is_dir():
            raise CloakBenchError(f"{self.path}: no such folder of photos. Check the path.")
        return ()

    def check_photos(self, names: Sequence[str], size: tuple[int, int]) -> list[Path]:
        """The files that have the names of given photos, in their order.

        size: width and height of the given photos [px].

        Raises:
            CloakBenchError: the folder is missing, or holds other photos or files than these, or
                photos of another size, a line for each.
        """
        files = {path: path.stem for path in photo_files(self.path)}
        odd = [path.name for path, stem in files.items() if stem not in names]
        missing = [name for name in names if name not in files.values()]
        if odd or missing or len(files) > len(names):
            wrong = [f"holds {_few(odd)}"] if odd else []
            wrong += [f"has no {_few(missing)}"] if missing else []
            raise CloakBenchError(
                f"{self.path}: {' and '.join(wrong) or 'holds two photos of one name'}. Call each "
                f"finished photo as the one that it was made of ({_few(names)}); its suffix may "
                "differ."
            )
        chosen = sorted(files, key=lambda path: names.index(path.stem))
        sizes = {path: found for path in chosen if (found := photo_size(path)) != size}
        if sizes:
            raise CloakBenchError(
                *(
                    f"{path}: is {width}x{height} px, but the photo that it should be made of is "
                    f"{size[0]}x{size[1]} px. Give the tool the photos that `cloakbench data` "
                    "writes."
                    for path, (width, height) in sizes.items()
                )
            )
        return chosen

    def read(self, given: Photos, job: Job) -> Photos:
        """The finished photos of given ones, on whole grey levels; what was changed is noted.

        Raises:
            CloakBenchError: see `check_photos`; or a photo looks more like another of the given
                ones than like its own.
        """
        originals = to_images(given.pixels)
        files = self.check_photos(given.names, originals[0].size)
        images = [read_photo(path) for path in files]
        _check_alike(files, images, originals, given.names)
        job.notes["linf"], mean = changes(zip(images, originals, strict=True))
        if not math.isnan(mean):
            job.notes["psnr"] = round(mean, 2)
        return Photos(to_pixels(images), given.names)


def _check_alike(
    files: Sequence[Path],
    images: Sequence[Image.Image],
    originals: Sequence[Image.Image],
    names: Sequence[str],
) -> None:
    """See that each photo is nearer to its own original than to any other's."""
    coarse, wanted = (
        np.stack([np.asarray(image.resize(COARSE), np.float64) for image in each])
        for each in (images, originals)
    )
    for number, path in enumerate(files):
        errors = np.square(wanted - coarse[number]).mean((1, 2, 3))
        if errors[number] > errors.min():
            raise CloakBenchError(
                f"{path}: looks like {names[int(errors.argmin())]}, not like {names[number]}. "
                "Check which photo is which."
            )


def _few(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
