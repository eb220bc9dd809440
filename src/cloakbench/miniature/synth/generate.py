"""Folders of portraits, by several processes, resumable."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import new_file
from cloakbench.miniature.synth.camera import photograph
from cloakbench.miniature.synth.people import Person, Shot, sample_person, sample_shot
from cloakbench.miniature.synth.render import render
from cloakbench.miniature.synth.template import load_template


@dataclass(frozen=True)
class _Job:
    """One identity's portraits."""

    folder: Path
    seed: int
    identity: int
    portraits: int
    size: int
    sets: tuple[str, ...]


def portrait(seed: int, identity: int, index: int) -> tuple[Person, Shot]:
    """The person and the shot of portrait `index` of `identity` under the root `seed`."""
    own = int(np.random.SeedSequence([seed, identity]).generate_state(1)[0])
    person = sample_person(own)
    return person, sample_shot(person, index)


def generate(
    out: str | Path,
    identities: int,
    portraits: int,
    *,
    size: int = 128,
    seed: int = 0,
    first: int = 0,
    workers: int = 1,
    sets: Sequence[str] | None = None,
) -> list[Path]:
    """Write `out/person_NNNNNN/[set/]NN.jpg` and each identity's `attributes.json`.

    Identities are numbered from `first`; `sets` splits each identity's portraits evenly into
    subfolders. Files that exist and are whole are kept, so a stopped run resumes. The pictures
    depend on (seed, identity, portrait, size) only. Returns the identities' folders.
    """
    if sets and portraits % len(sets):
        raise CloakBenchError(
            f"portraits must be a multiple of the {len(sets)} sets, got {portraits}"
        )
    load_template()  # once here, lest every worker builds the cache
    numbers = range(first, first + identities)
    jobs = [_Job(Path(out) / f"person_{i:06d}", seed, i, portraits, size, tuple(sets or ()))
            for i in numbers]  # fmt: skip
    for _ in tqdm(_run(jobs, workers), total=len(jobs), unit="identity"):
        pass
    return [job.folder for job in jobs]


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(_identity, jobs)
        return
    with _single_threaded(), multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_identity, jobs)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Let spawned processes use one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    old = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _identity(job: _Job) -> None:
    names = list(_names(job))
    shots = [portrait(job.seed, job.identity, i) for i in range(job.portraits)]
    for name, (person, shot) in zip(names, shots, strict=True):
        path = job.folder / name
        if not _whole(path, job.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, photograph(render(person, shot, job.size), job.size, shot))
    record: dict[str, Any] = {"person": shots[0][0].attributes(), "portraits": {}}
    for name, (_, shot) in zip(names, shots, strict=True):
        record["portraits"][name] = shot.attributes()
    path = job.folder / "attributes.json"
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    if not path.exists() or path.read_text() != text:
        _replace(path, text.encode())


def _names(job: _Job) -> Iterator[str]:
    each = job.portraits // max(1, len(job.sets))
    for i in range(job.portraits):
        yield f"{job.sets[i // each]}/{i:02d}.jpg" if job.sets else f"{i:02d}.jpg"


def _whole(path: Path, size: int) -> bool:
    """Whether `path` holds a complete RGB picture of this size."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size == (size, size) and image.mode == "RGB"
    except (OSError, SyntaxError):
        return False


def _replace(path: Path, content: bytes) -> None:
    with new_file(path) as part:
        part.write_bytes(content)
