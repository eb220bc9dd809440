"""Which metrics tell most, which way they move with a protection, and which values stand out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cloakbench.files.layout import Controls
from cloakbench.score.base import metrics
from cloakbench.tables.summary import metric_columns

IDENTITY = ("relative_ims", "relative_ism", "ims", "ism", "fdfr")
QUALITY = ("clip_margin", "clip_iqac", "q", "liqe")
"""Metrics that may decide whether samples show the person, or are good; the first with values."""
LEVEL = 0.05  # of p by Holm, at which a difference is decided

Row = Mapping[Any, Any]


def chosen(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The first of some metrics that has values in a table."""
    return next((name for name in names if has_values(frame, name)), None)


def main_metrics(frame: pd.DataFrame) -> list[str]:
    """What tells most, of what a table has: of likeness, of missing faces, and of quality."""
    names = [chosen(frame, names) for names in (IDENTITY, ("fdfr",), QUALITY)]
    return [*dict.fromkeys(name for name in names if name)]


def has_values(frame: pd.DataFrame, name: str) -> bool:
    """Whether a table has a column in which anything stands."""
    return name in frame and bool(frame[name].notna().any())


def keep(frame: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    """A table with some of its metrics only."""
    return frame.drop(columns=[name for name in metric_columns(frame) if name not in names])


def best(frame: pd.DataFrame, against: Collection[str], controls: Controls) -> set[tuple[int, str]]:
    """Rows and metrics whose values stand out: of differences those that are decided, else those
    of the protections that protect most, where they differ.

    against: metrics whose arrows are wrong here. controls: no control stands out.
    """
    found: set[tuple[int, str]] = set()
    protects = ~(
        frame["protection"].isin(controls.protection) | frame["trainer"].isin(controls.floor)
    ).to_numpy()
    for name in metric_columns(frame):
        values = frame[name].reset_index(drop=True)
        if f"{name}_holm" in frame:
            stands_out = frame[f"{name}_holm"].reset_index(drop=True) <= LEVEL
        elif name in against or values.nunique() < 2:
            continue
        else:
            own = values.where(protects)
            end = own.max() if metrics[name].protects == "higher" else own.min()
            stands_out = own == end
        found |= {(int(row), name) for row in stands_out[stands_out].index}
    return found


def contrary(contrasts: pd.DataFrame, controls: Controls) -> frozenset[str]:
    """Metrics that move here against their arrow: where nothing undoes a protection its interval
    lies on the other side of its control's, and no protection's on this side.
    """
    rows = [
        row
        for row in contrasts.to_dict("records")
        if is_beside(row, controls.protection[:1])
        and row["protection"] not in controls.protection
        and row["purification"] in (controls.purification[:1] or [row["purification"]])
        and row["trainer"] in (controls.trainer[:1] or [row["trainer"]])
    ]
    moved = {name: {_side(row, name) for row in rows} for name in metrics.names()}
    return frozenset(name for name, sides in moved.items() if -1 in sides and 1 not in sides)


def directed(row: Row, metric: str) -> float:
    """A difference that is positive where the protection harms."""
    return float(row[metric]) * (1 if metrics[metric].protects == "higher" else -1)


def _side(row: Row, metric: str) -> int:
    """1 where a difference is surely as its arrow says, -1 where it is surely not, else 0."""
    if metric not in row or math.isnan(row[metric]):
        return 0
    few = [float(text) for text in str(row[f"{metric}_values"]).split()]
    ends = few or [row[f"{metric}_low"], row[f"{metric}_high"]]
    sign = 1 if metrics[metric].protects == "higher" else -1
    if len(ends) < 2 or any(map(math.isnan, ends)):
        return 0
    return sign if min(ends) > 0 else -sign if max(ends) < 0 else 0


def is_beside(row: Row, known: Iterable[str]) -> bool:
    """Whether a difference is to one of these protections, in all else the same."""
    return row["baseline"].partition(", ")[0] in [*known]
