"""The `score` stage: every metric on every sample of a cell, or on all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench.errors import CloakBenchError
from cloakbench.faces import FaceBackend, largest
from cloakbench.files.images import is_photo, photo_files, read_photo
from cloakbench.files.layout import Cell, label, prompt_folders
from cloakbench.running.record import Facts
from cloakbench.score.base import ImageMetric, Metric, Sample, SetMetric, check_strangers, images_of
from cloakbench.score.references import NO_REFERENCES, References

if TYPE_CHECKING:
    import pandas as pd


def facts(backend: FaceBackend, metrics: Sequence[Metric], cache: Path | None = None) -> Facts:
    """What scores are made of, besides samples, references, clean photos and labels."""
    settings = {"faces": backend.spec(), "metrics": [metric.spec() for metric in metrics]}
    return Facts.of("score", __name__, settings, backend, *metrics, cache=cache)


def score_samples(
    generated: Path,
    references: References,
    backend: FaceBackend,
    metrics: Sequence[Metric],
    cell: Cell,
    photos: Path | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Score the samples of one cell.

    Args:
        generated: a folder per prompt key.
        references: of the same backend; `NO_REFERENCES` will do where no metric needs them.
        backend: finds the faces; not run when no metric needs faces.
        metrics: a column each, NaN where there is no value; those of sets repeat theirs.
        cell: labels of the rows; its identity is whom the samples should show.
        photos: the identity's clean photos, for metrics that compare with them.
        device: where the metrics' networks run.

    Returns:
        A row per sample: the cell's labels, `prompt`, `image`, `face` (1: any), `faces`, metrics.

    Raises:
        CloakBenchError: no samples, an unreadable image, a missing reference, or one of another
            backend or settings; or a metric needs originals, or photos that are not given.
    """
    import pandas as pd

    _check_metrics(metrics)
    _check_references(references, backend, metrics, cell)
    searcher = backend if any("faces" in metric.reads for metric in metrics) else None
    files, clean = sample_files(generated), _clean(photos, backend, metrics)
    samples = [_sample(path, searcher)._replace(photos=clean) for _, path in files]
    table = pd.DataFrame(
        {**label(cell), "prompt": prompt, "image": path.stem, **_faces(sample, searcher)}
        for (prompt, path), sample in zip(files, samples, strict=True)
    )
    for metric in metrics:
        if isinstance(metric, ImageMetric):
            table[metric.name] = metric.scores(samples, references, cell.identity, device)
        elif isinstance(metric, SetMetric):
            table[metric.name] = metric.score(images_of(samples), images_of(clean), device)
    return table


def _check_references(
    references: References, backend: FaceBackend, metrics: Sequence[Metric], cell: Cell
) -> None:
    backend.check()
    if not (needing := [metric for metric in metrics if metric.needs_reference]):
        return
    if references == NO_REFERENCES:
        raise CloakBenchError(
            f"metric '{needing[0].name}' compares faces with the person's. Name the file of "
            "`cloakbench references` with --references."
        )
    references[cell.identity]
    scale = references.calibration
    check_strangers(metrics, scale.other if scale else backend.strangers, backend.name)
    if references.backend != backend.spec():
        raise CloakBenchError(
            f"the references of dataset '{cell.dataset}' were made with "
            f"{json.dumps(references.backend)}, not with {json.dumps(backend.spec())}. "
            "Run `cloakbench references` again."
        )


def _check_metrics(metrics: Sequence[Metric]) -> None:
    for metric in metrics:
        if not metric.judges_samples:
            raise CloakBenchError(
                f"metric '{metric.name}' is one of photos, which have originals. Leave it out for "
                "samples."
            )
        metric.check()


def sample_files(generated: Path) -> list[tuple[str, Path]]:
    """The samples of a cell, each with its prompt's key.

    By hand also a picture, or a folder of pictures, which stands for a prompt then.

    Raises:
        CloakBenchError: there are none; see `photo_files`.
    """
    place = generated.resolve()
    if generated.is_file():
        return [(place.parent.name, path) for path in photo_files(generated)]
    folders = prompt_folders(generated)
    by_prompt = [(folder.name, path) for folder in folders for path in photo_files(folder)]
    if by_prompt and (beside := [p for p in generated.iterdir() if is_photo(p)]):
        raise CloakBenchError(
            f"{min(beside)}: lies beside folders of samples, {folders[0].name} among them, which "
            "stand for prompts. Name a folder of either."
        )
    samples = by_prompt or [(place.name, path) for path in photo_files(generated)]
    if not samples:
        raise CloakBenchError(
            f"{generated}: no samples; a picture, a folder of pictures, or a folder of such per "
            "prompt is expected. Run `cloakbench sample` again."
        )
    return samples


def _clean(photos: Path | None, backend: FaceBackend, metrics: Sequence[Metric]) -> list[Sample]:
    """The person's clean photos, if a metric compares with them; with faces, if one needs these."""
    one_by_one = [each for each in metrics if isinstance(each, ImageMetric) and each.reads_photos]
    comparing = [*one_by_one, *(each for each in metrics if isinstance(each, SetMetric))]
    if not comparing:
        return []
    if photos is None:
        raise CloakBenchError(
            f"metric '{comparing[0].name}' compares with the person's clean photos. Name their "
            "folder with --photos."
        )
    return [_sample(path, backend if one_by_one else None) for path in photo_files(photos)]


def _faces(sample: Sample, searcher: FaceBackend | None) -> dict[str, int | None]:
    """Whether there is a face, and how many; unknown where nobody looked."""
    found = None if searcher is None else len(sample.faces)
    return {"face": None if found is None else int(found > 0), "faces": found}


def _sample(path: Path, backend: FaceBackend | None) -> Sample:
    image = read_photo(path)
    faces = backend.faces(image) if backend else []
    return Sample(image, largest(faces), faces)
