"""Read the score files of an experiment's cells into long tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cloakbench.errors import CloakBenchError
from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell, Layout, label
from cloakbench.files.text import read_text_cell
from cloakbench.files.verified import sealed
from cloakbench.score.base import metrics

NAMES = (*CELL_LABELS, "prompt", "image", "photo")  # text, even where it looks like a number


def read_scores(cells: Sequence[Cell], layout: Layout) -> pd.DataFrame:
    """Every sample of every cell, one row each, in the order of the cells.

    Raises:
        CloakBenchError: no cells, or a cell's score file is missing or not its own.
    """
    return _concat([_read(layout.scores(cell), label(cell), "score") for cell in cells])


def read_distances(cells: Sequence[Cell], layout: Layout) -> pd.DataFrame:
    """Every protected or purified photo of the cells, one row each; trainers share photos.

    Raises:
        CloakBenchError: no cells, or a file of distances is missing or not the cell's own.
    """
    files = {layout.distances(cell): label(cell, PHOTO_LABELS) for cell in cells}
    return _concat([_read(path, labels, "distances") for path, labels in files.items()])


def read_table(path: Path) -> pd.DataFrame:
    """A table that `write_csv` wrote: names are text, and only empty cells are missing."""
    types = dict.fromkeys(NAMES, str)
    frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    for name in frame.columns.intersection([*NAMES]):
        frame[name] = frame[name].map(read_text_cell, na_action="ignore")
    return frame


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        raise CloakBenchError("the experiment has no cells, so there is nothing to tabulate.")
    return pd.concat(frames, ignore_index=True)


def _read(path: Path, labels: dict[str, str], command: str) -> pd.DataFrame:
    try:
        frame = read_table(sealed(path))
    except FileNotFoundError:
        raise CloakBenchError(
            f"{path}: no such file. Run `cloakbench {command}` for this cell first."
        ) from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError) as error:
        raise CloakBenchError(
            f"{path}: not a table ({error}). Run `cloakbench {command}` again."
        ) from None
    for name, expected in labels.items():
        found = set(frame[name]) if name in frame else {"no such column"}
        if found != {expected}:
            raise CloakBenchError(
                f"{path}: {name} should be '{expected}' in every row, found "
                f"{', '.join(sorted(map(str, found))) or 'no rows'}. "
                f"Run `cloakbench {command}` again."
            )
    if said := wrong(frame):
        raise CloakBenchError(f"{path}: {said}. Delete it and run `cloakbench {command}` again.")
    return frame


def wrong(frame: pd.DataFrame) -> str:
    """What no table of scores can hold, in words: a row twice, text, or what no metric gives."""
    rows = frame.columns.intersection(["prompt", "image", "photo"])
    if frame.duplicated([*rows]).any():
        twice = frame[frame.duplicated([*rows])].iloc[0]
        return f"{' '.join(map(str, twice[rows]))} is there twice"
    for metric in metrics:
        if metric.name not in frame:
            continue
        values, (least, most) = frame[metric.name].dropna(), metric.bounds
        if not pd.api.types.is_numeric_dtype(values):
            return f"{metric.name} is no number in every row"
        if len(outside := values[~values.between(least, most)]):
            return f"{metric.name} of {outside.iloc[0]:g} is not in [{least:g}, {most:g}]"
    return ""
