"""From images to identities, from identities to cells, and from cells to differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product

import pandas as pd

from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Controls
from cloakbench.score.base import metrics
from cloakbench.tables.bootstrap import Interval, mean_interval

GROUP = tuple(name for name in CELL_LABELS if name != "identity")
REPLACED = (("protection",), ("purification",), ("trainer",), ("purification", "trainer"))
"""What a cell and its baselines differ in: protections are compared, and what undoes them."""


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
    counts = groups.agg(images=("image", "size"))
    counts["faces"] = groups["face"].sum(min_count=1)  # where no metric looked for any, unknown
    return counts.join(groups[metric_columns(images)].mean()).reset_index()


def by_cell(images: pd.DataFrame, budgets: Mapping[str, int]) -> pd.DataFrame:
    """Mean scores over identities with 95 % bootstrap intervals, one row per cell of the study.

    budgets: grey levels by protection.

    Columns: `GROUP`, `budget`, `identities`, `images`, `faces`, `over` (what was resampled:
    "identities", or "images" where there is one identity), then for each metric its mean, `_low`,
    `_high`, `_n`.
    """
    rows = []
    for labels, frame in _groups(images):
        over, units = _units(frame)
        rows.append(
            {
                **labels,
                "budget": f"{budgets[labels['protection']]}/255",
                "identities": frame["identity"].nunique(),
                "images": len(frame),
                "faces": frame["face"].sum(min_count=1),
                "over": over,
                **_intervals(units),
            }
        )
    return pd.DataFrame(rows)


def contrasts(images: pd.DataFrame, controls: Controls, budgets: Mapping[str, int]) -> pd.DataFrame:
    """Paired differences of each cell to its baselines: controls in its methods' places.

    Differences are taken per identity (per prompt and image where there is one identity, since
    compared cells share their sampling noise) and then averaged. Columns: `GROUP`, `baseline`
    (the controls; with its budget where that differs), `over`, then for each metric the mean
    difference, `_low`, `_high`, `_n`.
    """
    groups = {tuple(labels.values()): (labels, frame) for labels, frame in _groups(images)}
    rows = []
    for labels, frame in groups.values():
        for replaced in _baselines(labels, controls):
            _, baseline = groups.get(tuple((labels | replaced).values()), (None, None))
            if baseline is not None:
                over, differences = _paired(frame, baseline)
                names = {"baseline": _name(labels, replaced, budgets), "over": over}
                rows.append({**labels, **names, **_intervals(differences)})
    return pd.DataFrame(rows, columns=None if rows else [*GROUP, "baseline", "over"])


def _baselines(labels: Mapping[str, str], controls: Controls) -> Iterator[dict[str, str]]:
    """Labels that make baselines of a cell; one of two controls is the other's baseline."""
    candidates = controls._asdict()
    for axes in REPLACED:
        earlier = []
        for axis in axes:
            known = candidates[axis]
            own = known.index(labels[axis]) if labels[axis] in known else len(known)
            earlier.append(known[:own])
        for chosen in product(*earlier):
            yield dict(zip(axes, chosen, strict=True))


def _name(labels: Mapping[str, str], replaced: dict[str, str], budgets: Mapping[str, int]) -> str:
    name = " + ".join(replaced.values())
    budget = budgets.get(replaced.get("protection", ""), 0)
    return f"{name}, {budget}/255" if budget not in {0, budgets[labels["protection"]]} else name


def photo_summary(distances: pd.DataFrame) -> pd.DataFrame:
    """What every protection and purification does to the photos.

    Columns: labels but the identity, `photos`, and the metrics of photos, each by its `aggregate`.
    That is first of an identity's photos and then of the identities, so that an identity with more
    photos does not weigh more.
    """
    labels = [name for name in PHOTO_LABELS if name != "identity"]
    photos = distances.groupby(labels, sort=False).agg(photos=("photo", "size"))
    values = aggregate(aggregate(distances, PHOTO_LABELS).reset_index(), labels)
    return photos.join(values).reset_index()


def aggregate(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """The metrics of a table by group, each by its `Metric.aggregate`; the labels are the index."""
    names = metric_columns(frame)
    groups = frame.groupby(list(labels), sort=False)[names]
    finite = frame[names].replace([math.inf, -math.inf], math.nan)
    largest = groups.max()
    means = finite.groupby([frame[name] for name in labels], sort=False).mean()
    means = means.fillna(largest)  # where no value is finite: infinite, or none
    extreme = [name for name in names if metrics[name].aggregate == "max"]
    means[extreme] = largest[extreme]
    return means


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


def _intervals(units: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in units.columns:
        row |= columns_of(name, mean_interval(units[name].to_numpy(dtype=float)))
    return row


def columns_of(name: str, interval: Interval) -> dict[str, float]:
    """The four columns of one metric in a summary row."""
    mean, low, high, n = interval
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
