"""All tables of one experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cloakbench.experiment.claims import Ledger
from cloakbench.files.layout import Cell, Controls, Layout
from cloakbench.files.text import write_csv, write_text
from cloakbench.tables.collect import read_distances, read_scores
from cloakbench.tables.display import (
    CONTRASTS_NOTE,
    VERDICTS_NOTE,
    Grid,
    difference_grid,
    note,
    photo_grid,
    score_grid,
    verdict_grid,
)
from cloakbench.tables.latex import latex
from cloakbench.tables.markdown import markdown
from cloakbench.tables.summary import by_cell, by_identity, contrasts, photo_summary
from cloakbench.tables.verdicts import verdicts


class Tables(NamedTuple):
    """The tables of an experiment, one CSV file each.

    images: one row per sample; identities: per identity and cell; summary: per cell, over
    identities; contrasts: differences to the controls; distances: one row per photo; photos: per
    protection and purification, over identities; verdicts: on claims, where there are any.
    """

    images: pd.DataFrame
    identities: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    distances: pd.DataFrame
    photos: pd.DataFrame
    verdicts: pd.DataFrame | None


def make_tables(
    cells: Sequence[Cell],
    layout: Layout,
    controls: Controls,
    budgets: Mapping[str, int],
    claims: Ledger | None = None,
) -> Tables:
    """Read the score files of an experiment's cells and summarise them, in the cells' order.

    controls: what methods are compared with. budgets: grey levels by protection. claims: what is
    decided.

    Raises:
        CloakBenchError: a file of scores or distances is missing; the message names it.
    """
    images, distances = read_scores(cells, layout), read_distances(cells, layout)
    return Tables(
        images=images,
        identities=by_identity(images),
        summary=by_cell(images, budgets),
        contrasts=contrasts(images, controls, budgets),
        distances=distances,
        photos=photo_summary(distances),
        verdicts=None if claims is None else verdicts(claims, images, distances),
    )


def verdicts_so_far(claims: Ledger, cells: Sequence[Cell], layout: Layout) -> pd.DataFrame:
    """Verdicts by the cells that have been scored; claims on others are undecided."""
    scored = [cell for cell in cells if layout.scores(cell).exists()]
    measured = [cell for cell in cells if layout.distances(cell).exists()]
    images = read_scores(scored, layout) if scored else pd.DataFrame()
    return verdicts(claims, images, read_distances(measured, layout) if measured else images[:0])


def write_tables(experiment: str, tables: Tables, folder: Path) -> None:
    """Write every table as CSV, and the short ones as Markdown and LaTeX too."""
    for name, frame in tables._asdict().items():
        if frame is not None:
            write_csv(frame, folder / f"{name}.csv")
    remark = note(tables.summary)
    short: dict[str, tuple[str, Grid, str]] = {
        "summary": (experiment, score_grid(tables.summary), remark),
        "contrasts": (
            f"{experiment}, differences to the controls",
            difference_grid(tables.contrasts),
            f"{CONTRASTS_NOTE} {remark}",
        ),
        "identities": (f"{experiment}, by identity", score_grid(tables.identities), ""),
        "photos": (f"{experiment}, photos against their originals", photo_grid(tables.photos), ""),
    }
    if tables.verdicts is not None:
        short["verdicts"] = (f"{experiment}, claims", verdict_grid(tables.verdicts), VERDICTS_NOTE)
    for name, content in short.items():
        write_text(folder / f"{name}.md", markdown(*content))
        write_text(folder / f"{name}.tex", latex(*content))
