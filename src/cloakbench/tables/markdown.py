"""Tables as Markdown, and the summary in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from cloakbench.files.text import markdown_row, markdown_text
from cloakbench.tables.display import Grid, note, score_grid

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


def print_summary(experiment: str, summary: pd.DataFrame, console: Console | None = None) -> None:
    """Print the summary with one of its counts, narrow enough for a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = score_grid(summary, counts=("faces",))
    shared = ", ".join(f"{name} {value}" for name, value in grid.shared.items())
    title = f"{experiment} ({shared})" if shared else experiment
    table = Table(title=Text(title), caption=Text(note(summary)))
    for heading in grid.headings:
        table.add_column(Text(heading), overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(f"{value.text}\n{value.interval}".rstrip()) for value in row))
    (console or Console()).print(table)
