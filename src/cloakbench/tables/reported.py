"""Reported values, and the measured ones of the same cells beside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from cloakbench.experiment.claims import labels_of
from cloakbench.experiment.reported import Reported
from cloakbench.files.layout import METHOD_LABELS
from cloakbench.files.text import write_csv, write_text
from cloakbench.score.base import metrics
from cloakbench.tables.display import NOTHING, Grid, Value, number, spread
from cloakbench.tables.experiment import Tables
from cloakbench.tables.markdown import markdown
from cloakbench.tables.summary import rows_of

HEADINGS = [*METHOD_LABELS, "metric", "reported", "measured", "people", "where"]


def reported_table(reported: Reported, tables: Tables) -> pd.DataFrame:
    """A row per reported value: METHOD_LABELS, `metric`, `place`, `reported`, and `measured` with
    its interval, `low` and `high`, and `n` people, as the summary has them; NaN where nothing has
    run. Of photos, as the table of photos has it, without interval.
    """
    rows: list[dict[str, Any]] = []
    for each in reported.values:
        labels = labels_of(each.cell)
        measured = tables.photos if each.of_photos else tables.summary
        own = rows_of(measured, labels)
        found = own.iloc[0].to_dict() if len(own) else {}
        ends = {
            key: found.get(f"{each.metric}{of}", math.nan)
            for key, of in (("measured", ""), ("low", "_low"), ("high", "_high"), ("n", "_n"))
        }
        told = {"metric": each.metric, "place": each.place, "reported": each.value}
        rows.append({**dict.fromkeys(METHOD_LABELS, NOTHING), **labels, **told, **ends})
    return pd.DataFrame(rows)


def write_reported(experiment: str, reported: Reported, tables: Tables, folder: Path) -> None:
    """Write the table as CSV and Markdown."""
    frame = reported_table(reported, tables)
    write_csv(frame, folder / "reported.csv")
    title = f"{experiment}, reported and measured"
    remark = f"Reported: {reported.source}. Brackets are 95 % intervals over people."
    write_text(folder / "reported.md", markdown(title, reported_grid(frame), remark))


def reported_grid(frame: pd.DataFrame) -> Grid:
    """The table as people read it."""
    rows = []
    for row in frame.to_dict("records"):
        spec = metrics[row["metric"]].display
        ends = {"x_low": row["low"], "x_high": row["high"]}
        rows.append(
            [
                *(Value(row[name]) for name in METHOD_LABELS),
                Value(metrics[row["metric"]].title),
                Value(number(row["reported"], spec)),
                Value(number(row["measured"], spec), spread(ends, "x", spec)),
                Value(number(row["n"], ".0f")),
                Value(row["place"]),
            ]
        )
    return Grid(HEADINGS, rows, {}, HEADINGS)
