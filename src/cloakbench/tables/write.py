"""Files of an experiment's tables: CSV for machines, Markdown and LaTeX for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.files.text import write_csv, write_text
from cloakbench.score.base import DISTANCES
from cloakbench.tables.display import (
    CONTRASTS_NOTE,
    COUNTS,
    SEEDS_NOTE,
    VERDICT,
    Grid,
    difference_grid,
    note,
    photo_grid,
    score_grid,
    seed_grid,
    verdict_grid,
    verdicts_note,
)
from cloakbench.tables.experiment import Tables
from cloakbench.tables.findings import failure
from cloakbench.tables.latex import latex
from cloakbench.tables.markdown import EXPECTED, markdown, summary_text
from cloakbench.tables.measures import LEVEL, best, keep, main_metrics
from cloakbench.tables.summary import metric_columns

SHORT_VERDICT = ("claim", "verdict", "effect", "p by Holm", "n")
CAPTIONS = {
    "summary": " Arrows point to where the protection holds, brackets are 95 % intervals, and bold "
    "protects most.",
    "contrasts": " Brackets are 95 % intervals, p of sign-flip tests, after Holm's correction for "
    f"all rows; bold: it is at most {LEVEL}.",
}
"""What captions say besides the title; of tables with bold values."""


def write_tables(experiment: str, tables: Tables, folder: Path, chosen: Sequence[str] = ()) -> None:
    """Write every table as CSV, the short ones as Markdown and LaTeX too; and a terminal's.

    chosen: metrics of the LaTeX tables, which have to fit a page; by default those that tell most.

    Raises:
        CloakBenchError: a chosen metric is in no table.
    """
    known = [*metric_columns(tables.images), *metric_columns(tables.distances)]
    for name in chosen:
        if name not in known:
            raise CloakBenchError(f"--latex: unknown metric '{name}': {nearest(name, known)}")
    failed = failure(tables)
    write_text(folder / "summary.txt", summary_text(experiment, tables))
    for name, frame in tables.frames.items():
        write_csv(frame, folder / f"{name}.csv")
    for name, (title, grid, remark) in _short(experiment, tables, failed).items():
        write_text(folder / f"{name}.md", markdown(title, grid, remark))
    names = [each for each in chosen if each in tables.summary] or main_metrics(tables.summary)
    of_photos = [each for each in chosen if each in tables.photos] or DISTANCES
    few = tables._replace(
        summary=keep(tables.summary, names),
        contrasts=keep(tables.contrasts, names).filter(regex=r"^(?!.*_p$)"),
        identities=keep(tables.identities, names),
        photos=keep(tables.photos, of_photos),
        prompts=None if tables.prompts is None else keep(tables.prompts, names),
    )
    for name, (title, grid, remark) in _short(experiment, few, failed, counts=()).items():
        bold = best(few.frames[name], tables.contrary, tables.controls) if name in CAPTIONS else ()
        caption, key = f"{title}.{CAPTIONS.get(name, '')}", f"{experiment}-{name}"
        write_text(folder / f"{name}.tex", latex(caption, grid, remark, key, bold))


def records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """A table's rows for JSON: null for what is not a finite number, no number rounded."""
    told = frame.astype(object)
    return told.where(frame.notna() & ~told.isin([np.inf, -np.inf]), None).to_dict("records")


def write_expected(experiment: str, expected: pd.DataFrame, folder: Path) -> None:
    """Write what to expect of protections that may adapt, as CSV and Markdown."""
    write_csv(expected, folder / "expected.csv")
    title = f"{experiment}, protections that may adapt"
    write_text(folder / "expected.md", markdown(title, score_grid(expected), EXPECTED))


def _short(
    experiment: str, tables: Tables, failed: str, counts: Sequence[str] = COUNTS
) -> dict[str, tuple[str, Grid, str]]:
    """Tables that people read: their titles, what is in them, and what explains it.

    failed: what is said of a control that failed. counts: columns of counts; none where columns
    have to be few.
    """
    against = tables.contrary
    remark = failed + note(tables.summary, against)
    short = {
        "summary": (experiment, score_grid(tables.summary, counts, against), remark),
        "contrasts": (
            f"{experiment}, differences to the controls",
            difference_grid(tables.contrasts, against),
            f"{CONTRASTS_NOTE} {remark}",
        ),
        "identities": (
            f"{experiment}, by identity",
            score_grid(tables.identities, counts, against),
            "",
        ),
        "photos": (f"{experiment}, photos against their originals", photo_grid(tables.photos), ""),
    }
    if tables.prompts is not None:
        grid = score_grid(tables.prompts, counts, against)
        short["prompts"] = (f"{experiment}, by prompt", grid, note(tables.prompts, against))
    if tables.verdicts is not None:
        claims = verdict_grid(tables.verdicts, VERDICT if counts else SHORT_VERDICT)
        short["verdicts"] = (f"{experiment}, claims", claims, verdicts_note(tables.verdicts))
    if tables.seeds is not None:
        spreads = seed_grid(tables.seeds)
        short["seeds"] = (f"{experiment}, people and seeds", spreads, SEEDS_NOTE)
    return short
