"""The `score` stage: every metric on every sample of a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench.errors import CloakBenchError
from cloakbench.images import photo_files, read_photo
from cloakbench.layout import Cell
from cloakbench.score.faces import FaceBackend, largest
from cloakbench.score.labels import CELL_LABELS, label
from cloakbench.score.metric import Metric, Sample
from cloakbench.score.references import References

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str | int | float | None]


def score_samples(
    generated: Path,
    references: References,
    backend: FaceBackend,
    metrics: Sequence[Metric],
    cell: Cell,
) -> pd.DataFrame:
    """Score the samples of one cell.

    Args:
        generated: one folder per prompt key, with the samples as images.
        references: made with the same backend, for the cell's dataset.
        backend: finds the faces; not run when no metric needs faces.
        metrics: one column each, NaN where a sample has no value.
        cell: labels of the rows; its identity is whom the samples should show.

    Returns:
        One row per sample, by prompt and image name: the cell's labels, `prompt`, `image`,
        `face` (1 if any was found), `faces` (how many), then the metrics.

    Raises:
        CloakBenchError: no samples, an unreadable image, a missing reference, or references that
            another backend or other settings made; or a metric needs originals.
    """
    import pandas as pd

    _check_references(references, backend, cell)
    for checked in (backend, *metrics):
        checked.check()
    for metric in metrics:
        if not metric.judges_samples:
            raise CloakBenchError(
                f"metric '{metric.name}' is one of photos, which have originals. Leave it out for "
                "samples."
            )
    wants_faces = any("faces" in metric.needs for metric in metrics)
    searcher = backend if wants_faces else None
    rows = [
        {**label(cell), "prompt": prompt, **_row(path, searcher, references, metrics, cell)}
        for prompt, path in _samples(generated)
    ]
    names = [metric.name for metric in metrics]
    return pd.DataFrame(rows, columns=[*CELL_LABELS, "prompt", "image", "face", "faces", *names])


def _check_references(references: References, backend: FaceBackend, cell: Cell) -> None:
    references[cell.identity]
    if references.backend != backend.spec():
        raise CloakBenchError(
            f"the references of dataset '{cell.dataset}' were made with "
            f"{json.dumps(references.backend)}, not with {json.dumps(backend.spec())}. "
            "Run `cloakbench references` again."
        )


def prompt_folders(generated: Path) -> list[Path]:
    """The folders of a cell's samples, one per prompt, sorted by prompt key."""
    if not generated.is_dir():
        raise CloakBenchError(f"{generated}: no such folder of samples. Run `cloakbench sample`.")
    return sorted(p for p in generated.iterdir() if p.is_dir() and not p.name.startswith("."))


def _samples(generated: Path) -> list[tuple[str, Path]]:
    folders = prompt_folders(generated)
    found = [(folder.name, path) for folder in folders for path in photo_files(folder)]
    if not found:
        raise CloakBenchError(
            f"{generated}: no samples; one folder of images per prompt is expected. "
            "Run `cloakbench sample` again."
        )
    return found


def _row(
    path: Path,
    backend: FaceBackend | None,
    references: References,
    metrics: Sequence[Metric],
    cell: Cell,
) -> Row:
    image = read_photo(path)
    found = backend.faces(image) if backend else None
    sample = Sample(image, largest(found or []), found or [])
    row: Row = {
        "image": path.stem,
        "face": None if found is None else int(bool(found)),
        "faces": None if found is None else len(found),
    }
    return row | {m.name: m.score(sample, references, cell.identity) for m in metrics}
