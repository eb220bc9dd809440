"""Numbers and headings as people read them, for Markdown, the terminal and the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from cloakbench.files.layout import CELL_LABELS
from cloakbench.score.base import metrics
from cloakbench.tables.summary import metric_columns

MINUS = "\N{MINUS SIGN}"
ARROWS = {"higher": "↑", "lower": "↓"}
NOTE = (
    "Arrows point to where the protection holds; brackets are 95 % bootstrap intervals over {}, "
    "none where all agree."
)
OF_FACES = " Of samples with a face only: {}; n says of how many {}, where some have none."
CONTRASTS_NOTE = (
    "A cell's score minus that of its baseline, which has controls in the place of some of the "
    "cell's methods, paired; shares differ by percentage points."
)
LABELS = (*CELL_LABELS, "baseline", "budget")
COUNTS = ("identities", "images", "faces")


class Value(NamedTuple):
    """A table cell: the value and, where there is one, its interval."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


class Grid(NamedTuple):
    """A table of text: headings, rows of values, and the labels that all rows share."""

    headings: list[str]
    rows: list[list[Value]]
    shared: dict[str, str]


def number(value: float, spec: str) -> str:
    """A number in a format, with a true minus sign, none for zero; a dash for NaN."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = format(value, spec)
    return text.replace("-", MINUS) if re.search("[1-9]", text) else text.lstrip("+-")


def score_grid(frame: pd.DataFrame, counts: Sequence[str] = COUNTS) -> Grid:
    """Scores per identity or cell, with intervals where the table has them."""
    return _grid(frame, counts, "")


def difference_grid(frame: pd.DataFrame) -> Grid:
    """Differences between cells, with their signs."""
    return _grid(frame, (), "+")


def _grid(frame: pd.DataFrame, counts: Sequence[str], sign: str) -> Grid:
    names = metric_columns(frame)
    shared, labels = _labels(frame)
    counts = [name for name in counts if name in frame]
    headings = [*labels, *counts, *(heading(name) for name in names)]
    rows = [
        [
            *(Value(str(row[name])) for name in labels),
            *(Value(number(row[name], ".0f")) for name in counts),
            *(score_value(row, name, sign) for name in names),
        ]
        for row in frame.to_dict("records")
    ]
    return Grid(headings, rows, shared)


def photo_grid(frame: pd.DataFrame) -> Grid:
    """What metrics say of photos; without arrows, which are about samples."""
    shared, labels = _labels(frame)
    names = metric_columns(frame)
    rows = [
        [*(Value(str(row[name])) for name in labels), *(score_value(row, name) for name in names)]
        for row in frame.to_dict("records")
    ]
    return Grid([*labels, *(metrics[name].title for name in names)], rows, shared)


def heading(metric: str) -> str:
    """A metric's title with the arrow of its direction."""
    return f"{metrics[metric].title} {ARROWS[metrics[metric].protects]}"


def score_value(row: Mapping[Any, Any], metric: str, sign: str = "") -> Value:
    """One metric of one row, with its interval if the row has one; sign "+": always signed."""
    spec = sign + metrics[metric].display
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    interval = "" if math.isnan(low) else f"[{number(low, spec)}, {number(high, spec)}]"
    n, all_of_them = row.get(f"{metric}_n", math.nan), row.get(row.get("over", ""), math.nan)
    if n < all_of_them:
        interval = f"{interval} n={n:.0f}".lstrip()
    return Value(number(row[metric], spec), interval)


def note(summary: pd.DataFrame) -> str:
    """The line that explains a summary's arrows, brackets and missing values."""
    over = " or ".join(summary["over"].unique())
    titles = [metrics[name].title for name in metric_columns(summary) if metrics[name].of_faces]
    return NOTE.format(over) + (OF_FACES.format("; ".join(titles), over) if titles else "")


def _labels(frame: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Labels that every row shares, and the label columns that remain."""
    present = [name for name in LABELS if name in frame]
    constant = [name for name in present if len(frame) > 1 and frame[name].nunique() == 1]
    shared = {name: str(frame[name].iloc[0]) for name in constant}
    return shared, [name for name in present if name not in shared]
