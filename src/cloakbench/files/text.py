"""Text files and tables that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench.files.outputs import new_file

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a killed job leaves no half file."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, without its index, with six significant digits."""
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
