r"""Tables as LaTeX: `\input` one below `\usepackage{booktabs}`."""

from __future__ import annotations

import pandas as pd

from cloakbench.tables.display import MINUS, Grid

SYMBOLS = {
    MINUS: "$-$",
    "\N{EN DASH}": "--",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex(title: str, grid: Grid, remark: str = "") -> str:
    """A tabular with booktabs' rules; title, shared labels and remark are comments above it."""
    shared = ", ".join(f"{name} {value}" for name, value in grid.shared.items())
    comments = [f"% {text}\n" for text in (title, shared, remark) if text]
    rows = [[str(value) for value in row] for row in grid.rows]
    style = pd.DataFrame(rows, columns=grid.headings).style.hide(axis="index")
    style.format(escape="latex").format_index(axis="columns", escape="latex")
    tabular = style.to_latex(column_format="l" * len(grid.headings), hrules=True)
    for symbol, command in SYMBOLS.items():
        tabular = tabular.replace(symbol, command)
    return "".join(comments) + tabular
