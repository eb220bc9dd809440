"""Tables as Markdown, and some of them in the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from cloakbench.files.text import markdown_row, markdown_text
from cloakbench.tables.compare import Comparison
from cloakbench.tables.display import (
    Grid,
    difference_grid,
    note,
    score_grid,
    verdict_grid,
    verdicts_note,
)
from cloakbench.tables.experiment import Tables
from cloakbench.tables.findings import failure
from cloakbench.tables.measures import keep, main_metrics

COMPARED = (
    "The second run less the first, of the people who are in both: with 95 % intervals over them "
    "and p of sign-flip tests; without, where nobody is. Arrows point to where protections hold."
)

WORD = 12  # characters of a label in a line of a terminal's table

EXPECTED = (
    "Means if the protection adapts with a probability, and is its baseline otherwise, of the "
    "people who have both, with 95 % intervals. Arrows point to where protections hold."
)

if TYPE_CHECKING:
    from rich.console import Console


def markdown(title: str, grid: Grid, remark: str = "") -> str:
    """A heading, what all rows share, the table and a remark below it."""
    shared = ", ".join(f"{name} {value}" for name, value in grid.shared.items())
    lines = [f"# {markdown_text(title)}", ""]
    lines += [f"For {markdown_text(shared)}.", ""] if shared else []
    lines += [markdown_row(grid.headings), "|" + " --- |" * len(grid.headings)]
    lines += [markdown_row(row) for row in grid.rows]
    return "\n".join([*lines, *(["", remark] if remark else []), ""])


def print_summary(experiment: str, tables: Tables, console: Console | None = None) -> None:
    """Print what tells most of the summary, narrow enough for a terminal."""
    few = keep(tables.summary, main_metrics(tables.summary)).drop(columns=["budget", "steps"])
    grid = score_grid(few, (), tables.contrary)
    shared = ", ".join(f"{name} {value}" for name, value in grid.shared.items())
    title = f"{experiment} ({shared})" if shared else experiment
    remark = f"{failure(tables)}{note(few, tables.contrary)} All metrics are in summary.md."
    _print(title, grid, remark, console)


def summary_text(experiment: str, tables: Tables) -> str:
    """What `print_summary` prints, for a terminal of 80 columns."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    print_summary(experiment, tables, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def print_verdicts(experiment: str, verdicts: pd.DataFrame, console: Console | None = None) -> None:
    """Print claims, their tests and verdicts, narrow enough for a terminal."""
    shown = ("test", "claim", "verdict", "effect", "p by Holm", "n", "people")
    grid = verdict_grid(verdicts, shown)
    rows = [
        [claim._replace(interval=f"({test})"), *others] for test, claim, *others in grid.rows
    ]  # a column less
    narrow = grid._replace(headings=grid.headings[1:], rows=rows)
    _print(f"{experiment}, claims", narrow, verdicts_note(verdicts), console)


def print_expected(experiment: str, expected: pd.DataFrame, chosen: Collection[str] = ()) -> None:
    """Print some metrics' expected means, or those that tell most."""
    few = keep(expected, [*chosen] or main_metrics(expected))
    _print(f"{experiment}, protections that adapt", score_grid(few), EXPECTED, None)


def print_comparison(
    title: str, found: Comparison, chosen: Collection[str], console: Console | None = None
) -> None:
    """Print differences of some metrics between two runs, and what was left out."""
    names = [*chosen] or main_metrics(found.differences)
    grid = difference_grid(keep(found.differences, names))
    remark = COMPARED + "".join(
        f" {name}: left out, {why}." for name, why in found.left_out.items()
    )
    _print(title, grid, remark, console)


def _print(title: str, grid: Grid, remark: str, console: Console | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(remark))
    for heading, *values in zip(grid.headings, *grid.rows, strict=True):
        broken = [line for value in values for line in _lines(value.text).splitlines()]
        label = (
            not any(value.interval for value in values) and max(map(len, broken), default=0) <= WORD
        )
        table.add_column(Text(heading), overflow="fold", no_wrap=label)
    for row in grid.rows:
        table.add_row(*(Text(f"{_lines(value.text)}\n{value.interval}".rstrip()) for value in row))
    (console or Console()).print(table)


def _lines(text: str) -> str:
    """A label of one long word on several lines, each of whole parts of it; else the text."""
    if len(text) <= WORD or " " in text:
        return text
    lines = [""]
    for part in re.findall(r"[^-_+@]*[-_+@]*", text):
        if lines[-1] and len(lines[-1] + part) > WORD:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
