"""Datasets: folders of identities, split into Anti-DreamBooth's three sets."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cloakbench.errors import CloakBenchError, counted, nearest
from cloakbench.faces import FaceBackend, largest
from cloakbench.files.bundle import bundled
from cloakbench.files.images import SUFFIXES, photo_files, read_photo, square_crop
from cloakbench.files.layout import SETS
from cloakbench.files.outputs import check_output, new_folder
from cloakbench.files.reading import parse_json
from cloakbench.files.weights import sha256_of
from cloakbench.names import check_name
from cloakbench.running.record import Facts, Record
from cloakbench.settings import Settings, UserPath

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

GROUPS = "groups.json"  # beside the identities' folders: who is in which group
REFERENCES = "references.json"  # beside them: their faces, as `cloakbench references` embeds them
ATTRIBUTES = "attributes.json"  # what `cloakbench synth` writes beside an identity's photos
NO_IDENTITY = "__MACOSX"  # what macOS puts into archives
FEWEST = 2  # photos in a set; one photo shows neither how an identity varies nor a mean of it


class Dataset(Settings):
    """A folder with one folder per identity.

    An identity's folder holds `set_A`, `set_B` and `set_C`, or photos: then the first third of
    the sorted names is set_A, the second set_B and the rest set_C.
    """

    path: UserPath = Field(description="folder that holds a folder per identity")
    crop: Literal["centre", "face"] = Field(
        "centre", description="which square of a photo is kept: its centre, or around its face"
    )

    @property
    def folder(self) -> Path:
        """Where it is: at its path, or bundled."""
        return bundled(self.path)

    @property
    def references(self) -> Path | None:
        """References of these people that may come with the dataset."""
        path = self.folder / REFERENCES
        return path if path.is_file() else None

    def identities(self) -> list[str]:
        """Names of all identities, sorted.

        Raises:
            CloakBenchError: the folder is missing or empty.
        """
        if not self.folder.is_dir():
            raise CloakBenchError(f"dataset {self.path}: no such folder. Check the path.")
        names = sorted(
            p.name
            for p in self.folder.iterdir()
            if p.is_dir() and not p.name.startswith(".") and p.name != NO_IDENTITY
        )
        if not names:
            photos = any(path.suffix.lower() in SUFFIXES for path in self.folder.iterdir())
            raise CloakBenchError(
                f"dataset {self.path}: holds photos, but no folder for each identity. Name the "
                f"folder around it, with the identity '{self.folder.resolve().name}'."
                if photos
                else f"dataset {self.path}: no identities. Add a folder for each."
            )
        return names

    def group(self, name: str) -> list[str]:
        """The people of a group, `{name: {"people": [...]}}` in the dataset's groups.json.

        Raises:
            CloakBenchError: there is no such file or group, or it names nobody of this dataset.
        """
        path = self.folder / GROUPS
        if not path.is_file():
            raise CloakBenchError(
                f"{path}: no such file, so '{name}' is no group. List identities."
            )
        groups = parse_json(path.read_text("utf-8"), str(path))
        if not isinstance(groups, dict) or not isinstance(groups.get(name), dict):
            known = groups if isinstance(groups, dict) else ()
            raise CloakBenchError(f"{path}: unknown group '{name}': {nearest(name, known)}")
        people = groups[name].get("people")
        if not isinstance(people, list) or not people or not all(map(_is_text, people)):
            raise CloakBenchError(f"{path}: group '{name}' lists no people. Choose another.")
        return people

    def sets(self, identity: str) -> dict[str, list[Path]]:
        """An identity's photos by set, without opening them.

        Raises:
            CloakBenchError: unknown identity, or a name that none can have; a missing set, or fewer
                than two photos in one.
        """
        folder = self.folder / identity
        if Path(identity).name != identity or identity.startswith(".") or not folder.is_dir():
            raise CloakBenchError(
                f"unknown identity '{identity}' in {self.path}: "
                f"{nearest(identity, self.identities())}"
            )
        try:
            check_name(identity)
        except ValueError as error:
            raise CloakBenchError(f"{folder}: this name {error}.") from None
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
        for path in (path for files in sets.values() for path in files):
            if re.search(r"[{}\n]", path.name):
                raise CloakBenchError(
                    f"{path}: braces and line breaks mean something to Snakemake. Rename it."
                )
        for name, files in sets.items():
            if len(files) < FEWEST:
                where = folder / name if found else f"{folder} ({name})"
                place = "" if found else f", here or in folders {', '.join(SETS)}"
                raise CloakBenchError(
                    f"{where}: {counted(len(files), 'photo')}, at least {FEWEST} are needed. "
                    f"Add some{place}."
                )
        return sets

    def is_split(self, identity: str) -> bool:
        """Whether an identity's photos come without sets, so that they are split by their names."""
        return not any((self.folder / identity / name).is_dir() for name in SETS)

    def split_aloud(self, identities: Iterable[str]) -> str:
        """What becomes of photos that are split, of which most are not protected; "" of none.

        Raises:
            CloakBenchError: see `sets`.
        """
        found = [self.sets(identity) for identity in identities if self.is_split(identity)]
        if not found:
            return ""
        surrogate, instance, reference = (sum(len(sets[n]) for sets in found) for n in SETS)
        people = "1 person" if len(found) == 1 else f"{len(found)} people"
        return (
            f"{people} without set_A, set_B, set_C: of the photos, by their names, {surrogate} are "
            f"for surrogates, {instance} are protected, and samples are compared with {reference}"
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def split(files: list[Path]) -> dict[str, list[Path]]:
    """Three sets of consecutive files; set_C takes what does not divide by three."""
    third = len(files) // 3
    return {
        "set_A": files[:third],
        "set_B": files[third : 2 * third],
        "set_C": files[2 * third :],
    }


def check_distinct(sets: Mapping[str, list[Path]], digests: Mapping[Path, str]) -> None:
    """Find out that no photo is in two of an identity's sets: what is judged is never learnt.

    digests: of all photos, SHA-256.

    Raises:
        CloakBenchError: it names two files that are equal.
    """
    first: dict[str, tuple[str, Path]] = {}
    for name, files in sets.items():
        for path in files:
            of, same = first.setdefault(digests[path], (name, path))
            if of != name:
                raise CloakBenchError(
                    f"{path}: is the same photo as {same}, but {name} and {of} must share none. "
                    "Replace or remove one."
                )


def facts(
    dataset: Dataset, resolution: int, backend: FaceBackend | None, cache: Path | None = None
) -> Facts:
    """What all prepared photos are made of, besides the photos as they were.

    backend: finds the faces, where photos are cropped around them.
    """
    settings: dict[str, Any] = {"resolution": resolution, "crop": dataset.crop}
    if dataset.crop == "centre" or backend is None:
        return Facts.of("data", __name__, settings)
    settings["faces"] = backend.spec()
    return Facts.of("data", __name__, settings, backend, cache=cache)


def record(
    facts: Facts, identity: str, sets: Mapping[str, list[Path]], digests: Mapping[Path, str]
) -> Record:
    """What an identity's prepared photos are made of; what their files were called does not count.

    digests: of all photos, SHA-256.
    """
    originals = {name: [digests[path] for path in files] for name, files in sets.items()}
    return Record(facts, {"identity": identity, "originals": originals})


def prepare(
    dataset: Dataset,
    identity: str,
    out: Path,
    resolution: int,
    backend: FaceBackend | None = None,
) -> None:
    """Crop each photo to a square and resize it; the originals are not touched.

    Writes `out/set_A/01.png` and so on, in the order of the original names, which the manifest
    keeps.

    backend: finds the faces, where photos are cropped around them; without one, all keep their
        centre.

    Raises:
        CloakBenchError: see `Dataset.sets`, `check_distinct` and `read_photo`.
    """
    sets = dataset.sets(identity)
    check_output(out, dataset.folder / identity)
    digests = sha256_of([path for files in sets.values() for path in files])
    check_distinct(sets, digests)
    names = {name: [path.name for path in files] for name, files in sets.items()}
    made_of = record(facts(dataset, resolution, backend), identity, sets, digests)
    around = backend if dataset.crop == "face" else None
    with new_folder(out, made_of.manifest() | {"photos": names}) as folder:
        for name, files in sets.items():
            (folder / name).mkdir()
            for stem, path in zip(prepared_names(len(files)), files, strict=True):
                photo = read_photo(path)
                middle = None if around is None else _face(photo, path, around)
                square_crop(photo, resolution, middle).save(folder / name / f"{stem}.png")


def prepared_names(photos: int) -> list[str]:
    """What the prepared photos of a set are called, without suffix, in the order of their names."""
    return [f"{number:02d}" for number in range(1, photos + 1)]


def _face(photo: Image, path: Path, backend: FaceBackend) -> tuple[float, float] | None:
    """The middle of a photo's largest face [px]."""
    if (face := largest(backend.faces(photo))) is None:
        log.warning(
            "%s: backend '%s' finds no face. Its central square is kept; replace the photo if that "
            "shows none.",
            *(path, backend.name),
        )
        return None
    left, top, right, bottom = face.box
    return (left + right) / 2, (top + bottom) / 2
