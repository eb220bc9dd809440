"""All tables of one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cloakbench.layout import Cell, Layout
from cloakbench.score.files import write_csv, write_text
from cloakbench.tables.collect import read_distances, read_scores
from cloakbench.tables.display import distance_grid, note, score_grid
from cloakbench.tables.markdown import markdown
from cloakbench.tables.summary import by_cell, by_identity, contrasts, distance_summary


class Tables(NamedTuple):
    """The tables of an experiment, one CSV file each.

    images: one row per sample; identities: per identity and cell; summary: per cell, over
    identities; contrasts: differences to clean and noise; distances: one row per photo.
    """

    images: pd.DataFrame
    identities: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    distances: pd.DataFrame


def make_tables(cells: Sequence[Cell], layout: Layout) -> Tables:
    """Read the score files of an experiment's cells and summarise them, in the cells' order.

    Raises:
        CloakBenchError: a file of scores or distances is missing; the message names it.
    """
    images = read_scores(cells, layout)
    return Tables(
        images=images,
        identities=by_identity(images),
        summary=by_cell(images),
        contrasts=contrasts(images),
        distances=read_distances(cells, layout),
    )


def write_tables(experiment: str, tables: Tables, folder: Path) -> None:
    """Write every table as CSV, and the short ones as Markdown too."""
    for name, frame in tables._asdict().items():
        write_csv(frame, folder / f"{name}.csv")
    remark = note(tables.summary)
    texts = {
        "summary": markdown(experiment, score_grid(tables.summary), remark),
        "contrasts": markdown(
            f"{experiment}, differences to the baselines", score_grid(tables.contrasts), remark
        ),
        "identities": markdown(f"{experiment}, by identity", score_grid(tables.identities)),
        "distances": markdown(
            f"{experiment}, photos against their originals",
            distance_grid(distance_summary(tables.distances)),
        ),
    }
    for name, text in texts.items():
        write_text(folder / f"{name}.md", text)
