"""From images to identities, from identities to cells, and from cells to differences."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import pandas as pd

from cloakbench.score.labels import CELL_LABELS, PHOTO_LABELS
from cloakbench.score.metric import metrics
from cloakbench.tables.bootstrap import Interval, mean_interval

GROUP = tuple(name for name in CELL_LABELS if name != "identity")
BASELINES = ("clean", "noise")  # protections that every other protection is compared with


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """The metrics of a table, in its own order."""
    known = set(metrics.names())
    return [name for name in frame.columns if name in known]


def by_identity(images: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of every identity in every cell.

    Columns: the cell's labels, `images`, `faces` (images with a face), then the metrics; a mean
    is over the images that have a value, NaN where none has.
    """
    groups = images.groupby(list(CELL_LABELS), sort=False)
    counts = groups.agg(images=("image", "size"), faces=("face", "sum"))
    return counts.join(groups[metric_columns(images)].mean()).reset_index()


def by_cell(images: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over identities with 95 % bootstrap intervals, one row per cell of the study.

    Columns: `GROUP`, `identities`, `images`, `faces`, `over` (what was resampled: "identities",
    or "images" where there is one identity), then for each metric its mean, `_low`, `_high`, `_n`.
    """
    rows = []
    for labels, frame in _groups(images):
        over, units = _units(frame)
        rows.append(
            {
                **labels,
                "identities": frame["identity"].nunique(),
                "images": len(frame),
                "faces": frame["face"].sum(),
                "over": over,
                **_intervals(units),
            }
        )
    return pd.DataFrame(rows)


def contrasts(images: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of each protection to `clean` and `noise`, all else equal.

    Differences are taken per identity (per prompt and image where there is one identity, since
    compared cells share their sampling noise) and then averaged. Columns: `GROUP`, `baseline`,
    `over`, then for each metric the mean difference, `_low`, `_high`, `_n`.
    """
    groups = [(labels, frame) for labels, frame in _groups(images)]
    rows = []
    for labels, frame in groups:
        for other, baseline in groups:
            if labels["protection"] not in BASELINES and _is_baseline(other, labels):
                over, differences = _paired(frame, baseline)
                names = {"baseline": other["protection"], "over": over}
                rows.append({**labels, **names, **_intervals(differences)})
    return pd.DataFrame(rows, columns=None if rows else [*GROUP, "baseline", "over"])


def distance_summary(distances: pd.DataFrame) -> pd.DataFrame:
    """Largest L-infinity, mean PSNR and mean SSIM of every protection and purification.

    Means are over identities, so that an identity with more photos does not weigh more.
    """
    labels = [name for name in PHOTO_LABELS if name != "identity"]
    per_identity = distances.groupby([*labels, "identity"], sort=False).agg(
        photos=("photo", "size"), linf=("linf", "max"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    )
    return (
        per_identity.groupby(labels, sort=False)
        .agg({"photos": "sum", "linf": "max", "psnr": "mean", "ssim": "mean"})
        .reset_index()
    )


def _groups(images: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for key, frame in images.groupby(list(GROUP), sort=False):
        yield dict(zip(GROUP, _names(key), strict=True)), frame


def _names(key: Hashable) -> Sequence[str]:
    assert isinstance(key, tuple)  # pandas: a list of keys gives tuples
    return key


def _units(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What is resampled: identities, or the images of a single identity."""
    columns = metric_columns(frame)
    if frame["identity"].nunique() > 1:
        return "identities", frame.groupby("identity")[columns].mean()
    return "images", frame.set_index(["prompt", "image"])[columns]


def _paired(frame: pd.DataFrame, baseline: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    shared = set(frame["identity"]) & set(baseline["identity"])
    over, units = _units(frame[frame["identity"].isin(shared)])
    _, others = _units(baseline[baseline["identity"].isin(shared)])
    return over, units - others


def _is_baseline(other: dict[str, str], labels: dict[str, str]) -> bool:
    return other["protection"] in BASELINES and {**other, "protection": ""} == {
        **labels,
        "protection": "",
    }


def _intervals(units: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in units.columns:
        row |= columns_of(name, mean_interval(units[name].to_numpy(dtype=float)))
    return row


def columns_of(name: str, interval: Interval) -> dict[str, float]:
    """The four columns of one metric in a summary row."""
    mean, low, high, n = interval
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
