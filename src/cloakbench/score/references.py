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
from cloakbench.files.text import write_text
from cloakbench.files.verified import seal, sealed
from cloakbench.registry import explain

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
    accept: what `FALSE_ACCEPTS` of all comparisons with others reach.
    """

    same: float
    other: float
    accept: float

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

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all, and its SHA-256 beside it."""
        write_text(path, self.model_dump_json(indent=1) + "\n")
        seal(path)

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


NO_REFERENCES = References(backend={}, identities={}, calibration=None)


def make_references(folders: Mapping[str, Path], backend: FaceBackend) -> References:
    """Embed the clean photos of every identity of a dataset.

    Args:
        folders: identity to its folder, which holds `set_A/`, `set_B/` and `set_C/`.
        backend: finds and embeds the faces; the largest of a photo counts.

    Raises:
        CloakBenchError: no identity, a missing folder, or an identity without a face in set_C.
    """
    if not folders:
        raise CloakBenchError("no identities: at least one data folder is needed.")
    identities = {name: _reference(folder, backend) for name, folder in sorted(folders.items())}
    calibration = _calibrate(identities, folders, backend)
    return References(backend=backend.spec(), identities=identities, calibration=calibration)


def _embeddings(folder: Path, backend: FaceBackend) -> list[np.ndarray | None]:
    """The largest face of each photo of a folder; None where a photo shows no face."""
    faces = [largest(backend.faces(read_photo(path))) for path in photo_files(folder)]
    return [None if face is None else face.embedding for face in faces]


def _reference(folder: Path, backend: FaceBackend) -> IdentityReference:
    found = _embeddings(folder / REFERENCE_SET, backend)
    vectors = [vector for vector in found if vector is not None]
    if not vectors:
        raise CloakBenchError(
            f"{folder / REFERENCE_SET}: backend '{backend.name}' finds no face in any of "
            f"{len(found)} photos. Give photos that show the face, or choose another backend."
        )
    mean = np.mean(vectors, axis=0)
    return IdentityReference(
        embedding=tuple(map(float, mean)), photos=len(found), faces=len(vectors)
    )


def _calibrate(
    identities: Mapping[str, IdentityReference], folders: Mapping[str, Path], backend: FaceBackend
) -> Calibration | None:
    if len(identities) < 2:
        log.warning("one identity: relative ISM and identification need others, and stay empty.")
        return None
    found = [_cosines(name, folders[name], identities, backend) for name in sorted(identities)]
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
    accept = np.quantile(strangers, 1 - FALSE_ACCEPTS, method="higher")
    return Calibration(same=float(same), other=float(other), accept=float(accept))


def _cosines(
    name: str, folder: Path, identities: Mapping[str, IdentityReference], backend: FaceBackend
) -> tuple[np.ndarray, np.ndarray] | None:
    """Cosines to the own and to the other references; None without a face to compare."""
    found = [v for group in CALIBRATION_SETS for v in _embeddings(folder / group, backend)]
    vectors = [vector for vector in found if vector is not None]
    if not vectors:
        log.warning("%s: no face in %s; not in the calibration.", folder, CALIBRATION_SETS)
        return None
    others = [reference.vector for other, reference in identities.items() if other != name]
    same = [cosine(vector, identities[name].vector) for vector in vectors]
    other = [cosine(vector, stranger) for vector in vectors for stranger in others]
    return np.array(same), np.array(other)
