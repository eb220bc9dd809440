"""Text files and tables that appear whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.files.outputs import new_file
from cloakbench.files.verified import seal

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a killed job leaves no half file."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


_FORMULA = re.compile(r"(?='*[=+\-@\t\r])")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, without its index, with six significant digits.

    Text that a spreadsheet would run as a formula gets an apostrophe before it, by which
    spreadsheets know text; `read_text_cell` takes it away.
    """
    safe = frame.copy(deep=False)
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        safe[name] = frame[name].map(_as_text)
    write_text(path, safe.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_scores(frame: pd.DataFrame, path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a table that others will be made of, and its manifest beside it; see `sealed`."""
    write_csv(frame, path)
    seal(path, manifest)


def read_text_cell(cell: str) -> str:
    """The text of a cell that `write_csv` wrote."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def markdown_row(texts: Iterable[object]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(markdown_text(str(text)) for text in texts) + " |"


def markdown_text(text: str) -> str:
    """Text that no viewer of Markdown takes for HTML, a link, or the end of a cell or line."""
    marks = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("](", "]\\("))
    for mark, safe in marks:
        text = text.replace(mark, safe)
    return " ".join(text.splitlines())
