"""What purifications take and change: seconds of a photo, its distance to its original, and photos
that some leave as they are.
"""

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
from cloakbench.purify.base import FACELESS, SECONDS
from cloakbench.tables.display import Value, number, photo_grid
from cloakbench.tables.markdown import markdown

KEYS = ["model", "dataset", "protection", "purification"]
OF_SECONDS = (
    "Seconds of a photo on the machines that ran the jobs, without loading and start; in "
    "parentheses, of how many jobs, which are those that no kill interrupted."
)
OF_FACES = (
    "Without a face: photos in which a purification of faces found none and which it left as they "
    "were, so that its cells are of both kinds of photos."
)


def purifier_costs(cells: Sequence[Cell], layout: Layout, photos: pd.DataFrame) -> pd.DataFrame:
    """The table of photos with the mean `seconds` of one, over `jobs`, the people's, that said it,
    and how many photos were `faceless`, and so left as they were; NaN where no face was looked for.

    photos: see `summary.photo_summary`.
    """
    folders = {layout.purified(cell): cell for cell in (replace(c, trainer="") for c in cells)}
    rows = [
        {**{key: getattr(cell, key) for key in KEYS}, **_told(folder)}
        for folder, cell in folders.items()
    ]
    groups = pd.DataFrame(rows).groupby(KEYS, sort=False)
    made = groups.agg(seconds=("seconds", "mean"), jobs=("seconds", "count"))
    made["faceless"] = groups["faceless"].sum(min_count=1)
    return photos.merge(made.reset_index(), on=KEYS, how="left")


def write_purifiers(experiment: str, costs: pd.DataFrame, folder: Path) -> None:
    """Write them as CSV and Markdown; apart from other tables, since equal runs differ in them.

    What no job here has told is left out: results that came from elsewhere bring scores alone.
    """
    write_csv(costs, folder / "purifiers.csv")
    grid, rows, remarks = photo_grid(costs), costs.to_dict("records"), []
    columns = {}
    if costs["jobs"].any():
        columns["seconds"] = [Value(number(r["seconds"], ".3g"), f"({r['jobs']})") for r in rows]
        remarks.append(OF_SECONDS)
    if costs["faceless"].notna().any():
        columns["without a face"] = [
            Value(
                number(r["faceless"], ".0f"),
                "" if math.isnan(r["faceless"]) else f"of {r['photos']}",
            )
            for r in rows
        ]
        remarks.append(OF_FACES)
    whole = grid._replace(
        headings=[*grid.headings, *columns],
        rows=[[*row, *(own[i] for own in columns.values())] for i, row in enumerate(grid.rows)],
    )
    title = f"{experiment}, what purifications take and change"
    write_text(folder / "purifiers.md", markdown(title, whole, " ".join(remarks)))


def _told(folder: Path) -> dict[str, float]:
    """What the manifest of a job's photos says."""
    said = load_manifest(folder / MANIFEST) or {}
    return {
        "seconds": float(said.get("took", {}).get(SECONDS, math.nan)),
        "faceless": float(said.get("notes", {}).get(FACELESS, math.nan)),
    }
