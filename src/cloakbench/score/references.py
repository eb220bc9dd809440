"""Reference embeddings of a dataset's identities, and what a face backend scores on real photos.

The scores of a face backend have no natural zero or one: two strangers reach a cosine of 0.0 with
one recogniser and 0.8 with another. The calibration says what the same person and other people
reach on the dataset's own clean photos, which puts any backend's ISM on one scale.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.faces import FaceBackend, cosine, largest
from cloakbench.files.images import photo_files, read_photo
from cloakbench.files.layout import SETS
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.text import write_text
from cloakbench.files.verified import load_manifest, seal, sealed
from cloakbench.registry import explain
from cloakbench.running.jobs import BY_HAND, Job
from cloakbench.running.record import Facts

log = logging.getLogger(__name__)

REFERENCE_SET = "set_C"
CALIBRATION_SETS = ("set_A", "set_B")
FALSE_ACCEPTS = 0.01  # share of strangers who pass for somebody


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IdentityReference(_Record):
    """One identity: the plain mean of the un-normalised embeddings of its set_C photos' faces."""

    embedding: tuple[float, ...]
    photos: int
    faces: int

    @property
    def vector(self) -> np.ndarray:
        return np.asarray(self.embedding)


class Calibration(_Record):
    """Cosines of clean set_A and set_B photos to the references.

    same: to the photo's own identity's, other: to every other identity's; means over identities.
    accept: what `FALSE_ACCEPTS` of all comparisons with others reach, or fewer.
    comparisons: how many these are; of fewer than 100, `accept` is what the nearest others reach,
        and the rate of false accepts is known no better than to one in so many.
    """

    same: float
    other: float
    accept: float
    comparisons: int

    def relative(self, ism: float) -> float:
        """ISM on a scale where 0 is another person and 1 the same person."""
        return (ism - self.other) / (self.same - self.other)


class References(_Record):
    """The references of a dataset, made with one face backend.

    calibration: None with a single identity, and where the backend cannot tell the identities
    apart; relative ISM is NaN then.
    """

    backend: dict[str, Any]
    identities: dict[str, IdentityReference]
    calibration: Calibration | None

    def __getitem__(self, identity: str) -> IdentityReference:
        if identity not in self.identities:
            raise CloakBenchError(
                f"no reference for identity '{identity}': {nearest(identity, self.identities)} "
                "Run `cloakbench references` again."
            )
        return self.identities[identity]

    def write(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Write JSON, whole or not at all, and its manifest beside it."""
        write_text(path, self.model_dump_json(indent=1) + "\n")
        seal(path, manifest)

    @classmethod
    def read(cls, path: Path) -> References:
        """Read the JSON that `write` wrote.

        Raises:
            CloakBenchError: the file is missing, not as it was written, or no references file.
        """
        try:
            return cls.model_validate_json(sealed(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CloakBenchError(
                f"{path}: no such file. Run `cloakbench references` first."
            ) from None
        except ValidationError as error:
            raise CloakBenchError(
                f"{path}: not a references file: {explain(error, cls)} "
                "Run `cloakbench references` again."
            ) from None


def facts(backend: FaceBackend, cache: Path | None = None) -> Facts:
    """What references are made of, besides the people's photos."""
    return Facts.of("references", __name__, backend.spec(), backend, cache=cache)


NO_REFERENCES = References(backend={}, identities={}, calibration=None)


class _Embedded:
    """The largest face's embedding of each photo, by identity and set, as checkpoints keep it."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, list[list[float] | None]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.of

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.of = state

    def vectors(self, identity: str, *sets: str) -> list[np.ndarray]:
        """Of the photos of sets that show a face."""
        found = [vector for name in sets for vector in self.of[identity][name]]
        return [np.asarray(vector) for vector in found if vector is not None]


def make_references(
    folders: Mapping[str, Path], backend: FaceBackend, job: Job = BY_HAND
) -> References:
    """Embed the clean photos of every identity of a dataset; those in which no face is found are
    named in warnings.

    Args:
        folders: identity to its folder, which holds `set_A/`, `set_B/` and `set_C/`.
        backend: finds and embeds the faces; the largest of a photo counts.
        job: keeps the embeddings of an identity for when it is killed in the next.

    Raises:
        CloakBenchError: no identity, a missing folder, or an identity without a face in set_C.
    """
    if not folders:
        raise CloakBenchError("no identities: at least one data folder is needed.")
    names, found = sorted(folders), _Embedded()
    for number in job.steps("references", len(names), {"faces": found}):
        folder = folders[names[number]]
        found.of[names[number]] = {each: _embeddings(folder / each, backend) for each in SETS}
    identities = {name: _reference(name, folders[name], found, backend) for name in names}
    calibration = _calibrate(identities, found, backend)
    return References(backend=backend.spec(), identities=identities, calibration=calibration)


def _embeddings(folder: Path, backend: FaceBackend) -> list[list[float] | None]:
    """The largest face of each photo of a folder; None where a photo shows no face."""
    files = photo_files(folder)
    faces = [largest(backend.faces(read_photo(path))) for path in files]
    called = (load_manifest(folder.parent / MANIFEST) or {}).get("photos", {}).get(folder.name)
    for number, (path, face) in enumerate(zip(files, faces, strict=True)):
        if face is None:
            name = f"{path} ({called[number]})" if called else path
            log.warning(
                "%s: backend '%s' finds no face in this square of the photo. Replace the photo, or "
                "let the dataset's crop be 'face' if it is not.",
                *(name, backend.name),
            )
    return [None if face is None else [*map(float, face.embedding)] for face in faces]


def _reference(
    name: str, folder: Path, found: _Embedded, backend: FaceBackend
) -> IdentityReference:
    photos, vectors = len(found.of[name][REFERENCE_SET]), found.vectors(name, REFERENCE_SET)
    if not vectors:
        raise CloakBenchError(
            f"{folder / REFERENCE_SET}: backend '{backend.name}' finds no face in any of "
            f"{photos} photos, of which a square is searched. Let the dataset's crop be 'face' if "
            "it is not, give photos that show the face, or choose another backend."
        )
    mean = np.mean(vectors, axis=0)
    return IdentityReference(embedding=tuple(map(float, mean)), photos=photos, faces=len(vectors))


def _calibrate(
    identities: Mapping[str, IdentityReference], embedded: _Embedded, backend: FaceBackend
) -> Calibration | None:
    if len(identities) < 2:
        log.warning("one identity: relative ISM and identification need others, and stay empty.")
        return None
    found = [_cosines(name, embedded, identities) for name in sorted(identities)]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return None
    same, other = (np.mean([each.mean() for each in kind]) for kind in zip(*pairs, strict=True))
    if not same > other:
        log.warning(
            "backend '%s' does not tell the identities apart (same %.3f, others %.3f): "
            "relative ISM stays empty.",
            *(backend.name, same, other),
        )
        return None
    strangers = np.concatenate([others for _, others in pairs])
    if strangers.size < 1 / FALSE_ACCEPTS:
        log.warning(
            "%d comparisons with others: too few for a false-accept rate of %.0f %%; to pass for a "
            "person takes the largest cosine of them.",
            *(strangers.size, 100 * FALSE_ACCEPTS),
        )
    passing = max(1, int(FALSE_ACCEPTS * strangers.size + 1e-9))
    accept = float(np.sort(strangers)[-passing])
    return Calibration(
        same=float(same), other=float(other), accept=accept, comparisons=strangers.size
    )


def _cosines(
    name: str, embedded: _Embedded, identities: Mapping[str, IdentityReference]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Cosines to the own and to the other references; None without a face to compare."""
    vectors = embedded.vectors(name, *CALIBRATION_SETS)
    if not vectors:
        log.warning("%s: no face in %s; not in the calibration.", name, CALIBRATION_SETS)
        return None
    others = [reference.vector for other, reference in identities.items() if other != name]
    same = [cosine(vector, identities[name].vector) for vector in vectors]
    other = [cosine(vector, stranger) for vector in vectors for stranger in others]
    return np.array(same), np.array(other)
