"""What purifications take and change: seconds of a photo, and its distance to its original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cloakbench.files.layout import Cell, Layout
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.text import write_csv, write_text
from cloakbench.files.verified import load_manifest
from cloakbench.purify.base import SECONDS
from cloakbench.tables.display import Value, number, photo_grid
from cloakbench.tables.markdown import markdown

KEYS = ["model", "dataset", "protection", "purification"]
REMARK = (
    "Seconds of a photo on the machines that ran the jobs, without loading and start; in "
    "parentheses, of how many jobs, which are those that no kill interrupted."
)


def purifier_costs(cells: Sequence[Cell], layout: Layout, photos: pd.DataFrame) -> pd.DataFrame:
    """The table of photos with the mean `seconds` of one, over `jobs`, the people's, that said it.

    photos: see `summary.photo_summary`.
    """
    folders = {layout.purified(cell): cell for cell in (replace(c, trainer="") for c in cells)}
    rows = [
        {**{key: getattr(cell, key) for key in KEYS}, "seconds": _seconds(folder)}
        for folder, cell in folders.items()
    ]
    took = pd.DataFrame(rows).groupby(KEYS, sort=False)["seconds"].agg(["mean", "count"])
    named = took.rename(columns={"mean": "seconds", "count": "jobs"}).reset_index()
    return photos.merge(named, on=KEYS, how="left")


def write_purifiers(experiment: str, costs: pd.DataFrame, folder: Path) -> None:
    """Write them as CSV and Markdown; apart from other tables, since equal runs differ in them."""
    write_csv(costs, folder / "purifiers.csv")
    grid = photo_grid(costs)
    times = [
        Value(number(row["seconds"], ".3g"), f"({row['jobs']})") for row in costs.to_dict("records")
    ]
    timed = grid._replace(
        headings=[*grid.headings, "seconds"],
        rows=[[*row, value] for row, value in zip(grid.rows, times, strict=True)],
    )
    title = f"{experiment}, what purifications take and change"
    write_text(folder / "purifiers.md", markdown(title, timed, REMARK))


def _seconds(folder: Path) -> float:
    said = load_manifest(folder / MANIFEST) or {}
    return float(said.get("took", {}).get(SECONDS, math.nan))
