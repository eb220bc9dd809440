"""The `distances` stage: protected and purified photos against their originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import photo_files, read_photo
from cloakbench.files.layout import PHOTO_LABELS, Cell, label
from cloakbench.running.record import Facts
from cloakbench.score.base import Metric, Sample, photo_metrics
from cloakbench.score.references import NO_REFERENCES

if TYPE_CHECKING:
    import pandas as pd


def facts(metrics: Sequence[Metric], cache: Path | None = None) -> Facts:
    """What distances are made of, besides photos, originals and labels.

    metrics: see `distances`.
    """
    measured = photo_metrics(metrics)
    settings = {"metrics": [metric.spec() for metric in measured]}
    return Facts.of("distances", __name__, settings, *measured, cache=cache)


def distances(
    photos: Path,
    originals: Path,
    cell: Cell,
    metrics: Sequence[Metric] = (),
    device: str = "cpu",
) -> pd.DataFrame:
    """Compare a folder of photos with their originals, matched by file stem, or two photos.

    Args:
        photos: protected or purified photos.
        originals: the same photos, untouched.
        cell: labels of the rows; its trainer plays no part.
        metrics: more of them, which read pixels and originals and no more.
        device: where their networks run.

    Returns:
        One row per photo, sorted by name: labels, `photo`, then `base.DISTANCES` and the metrics.

    Raises:
        CloakBenchError: the folders do not hold the same photos in the same sizes, or a metric
            needs faces.
    """
    import pandas as pd

    for metric in metrics:
        if not metric.judges_photos:
            raise CloakBenchError(
                f"metric '{metric.name}' is one of samples, which have faces to compare. Leave it "
                "out for photos."
            )
        metric.check()
    measured = photo_metrics(metrics)
    changed, original = _matched(photos, originals)
    samples = [_pair(changed[stem], path) for stem, path in original.items()]
    rows = [{**label(cell, PHOTO_LABELS), "photo": stem} for stem in original]
    values = {m.name: m.scores(samples, NO_REFERENCES, "", device) for m in measured}
    return pd.DataFrame(rows, columns=[*PHOTO_LABELS, "photo"]).assign(**values)


def _matched(photos: Path, originals: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Photos and their originals, by the stems of these; of one photo each whatever its name is."""
    changed, original = _by_stem(photos), _by_stem(originals)
    if photos.is_file() and originals.is_file():  # one of each, whatever they are called
        changed = dict(zip(original, changed.values(), strict=True))
    if changed.keys() != original.keys():
        odd = sorted(changed.keys() ^ original.keys())
        raise CloakBenchError(
            f"{photos}: photos differ from those of {originals} ({', '.join(odd)} in only one "
            "of the two). Call each photo as its original is; if a stage wrote the folder, run it "
            "again."
        )
    return changed, original


def _pair(changed: Path, original: Path) -> Sample:
    a, b = read_photo(changed), read_photo(original)
    if a.size != b.size:
        raise CloakBenchError(
            f"{changed}: is {a.width}x{a.height} px but {original} is {b.width}x{b.height} px. "
            "A stage keeps the size of its photos; run it again."
        )
    return Sample(a, None, original=b)


def _by_stem(folder: Path) -> dict[str, Path]:
    files = photo_files(folder)
    if not files:
        raise CloakBenchError(f"{folder}: no photos in this folder. Check the path.")
    found: dict[str, Path] = {}
    for path in files:
        if (other := found.setdefault(path.stem, path)) != path:
            raise CloakBenchError(f"{path} and {other} have one name. Rename one, or name a photo.")
    return found
