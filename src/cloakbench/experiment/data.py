"""Datasets: folders of identities, split into Anti-DreamBooth's three sets."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.files.bundle import bundled
from cloakbench.files.images import centre_crop, photo_files, read_photo
from cloakbench.files.layout import SETS
from cloakbench.files.outputs import check_output, new_folder
from cloakbench.settings import Settings, UserPath

ATTRIBUTES = "attributes.json"  # what `cloakbench synth` writes beside an identity's photos
FEWEST = 2  # photos in a set; one photo shows neither how an identity varies nor a mean of it


class Dataset(Settings):
    """A folder with one folder per identity.

    An identity's folder holds `set_A`, `set_B` and `set_C`, or photos: then the first third of
    the sorted names is set_A, the second set_B and the rest set_C.
    """

    path: UserPath = Field(description="folder that holds a folder per identity")

    @property
    def folder(self) -> Path:
        """Where it is: at its path, or bundled."""
        return bundled(self.path)

    def identities(self) -> list[str]:
        """Names of all identities, sorted.

        Raises:
            CloakBenchError: the folder is missing or empty.
        """
        if not self.folder.is_dir():
            raise CloakBenchError(f"dataset {self.path}: no such folder. Check the path.")
        names = sorted(
            p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")
        )
        if not names:
            raise CloakBenchError(f"dataset {self.path}: no identities. Add a folder for each.")
        return names

    def sets(self, identity: str) -> dict[str, list[Path]]:
        """An identity's photos by set, without opening them.

        Raises:
            CloakBenchError: unknown identity, a missing set, or fewer than two photos in one.
        """
        folder = self.folder / identity
        if Path(identity).name != identity or identity.startswith(".") or not folder.is_dir():
            raise CloakBenchError(
                f"unknown identity '{identity}' in {self.path}: "
                f"{nearest(identity, self.identities())}"
            )
        found = [name for name in SETS if (folder / name).is_dir()]
        missing = [name for name in SETS if name not in found]
        if found and missing:
            raise CloakBenchError(
                f"{folder}: the folder {missing[0]} is missing. Add it, or put all photos into "
                f"{folder} itself to have them split."
            )
        sets = (
            {name: photo_files(folder / name) for name in SETS}
            if found
            else split(photo_files(folder, beside=(ATTRIBUTES,)))
        )
        for path in (folder, *(path for files in sets.values() for path in files)):
            if re.search(r"[{}\n]", path.name):
                raise CloakBenchError(
                    f"{path}: braces and line breaks mean something to Snakemake. Rename it."
                )
        for name, files in sets.items():
            if len(files) < FEWEST:
                where = folder / name if found else f"{folder} ({name})"
                place = "" if found else f", here or in folders {', '.join(SETS)}"
                raise CloakBenchError(
                    f"{where}: {len(files)} photos, at least {FEWEST} are needed. Add some{place}."
                )
        return sets


def split(files: list[Path]) -> dict[str, list[Path]]:
    """Three sets of consecutive files; set_C takes what does not divide by three."""
    third = len(files) // 3
    return {
        "set_A": files[:third],
        "set_B": files[third : 2 * third],
        "set_C": files[2 * third :],
    }


def prepare(dataset: Dataset, identity: str, out: Path, resolution: int) -> None:
    """Crop each photo to its central square and resize it; the originals are not touched.

    Writes `out/set_A/01.png` and so on, in the order of the original names, which the manifest
    keeps.

    Raises:
        CloakBenchError: see `Dataset.sets` and `read_photo`.
    """
    check_output(out, dataset.folder)
    sets = dataset.sets(identity)
    manifest = {
        "stage": "data",
        "identity": identity,
        "resolution": resolution,
        "photos": {name: [path.name for path in files] for name, files in sets.items()},
    }
    with new_folder(out, manifest) as folder:
        for name, files in sets.items():
            (folder / name).mkdir()
            for number, path in enumerate(files, start=1):
                photo = centre_crop(read_photo(path), resolution)
                photo.save(folder / name / f"{number:02d}.png")
