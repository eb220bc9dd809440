r"""Tables as LaTeX: `\input` one below `\usepackage{booktabs, longtable, siunitx}`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import NamedTuple

from cloakbench.tables.display import LABELS, MINUS, Grid, Value

LONGEST = 20  # rows, of two lines each, that fit a page; longer tables break
WIDEST = 40  # characters of a name on one line
SENTENCES = r"p{0.45\linewidth}"
PACKAGES = r"\usepackage{booktabs, longtable, siunitx}"
SETUP = r"\sisetup{mode=text, reset-text-series=false, retain-explicit-plus}"
SYMBOLS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{mark: f"\\{mark}" for mark in "&%$#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    MINUS: "$-$",
    "\N{EN DASH}": "--",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
NO_NUMBERS = {"\N{EN DASH}", "∞", "-∞"}
NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?%?")


class Column(NamedTuple):
    """A heading of one line or more, and the lines of each row's cell."""

    alignment: str
    heading: list[str]
    rows: list[list[str]]


def latex(
    title: str,
    grid: Grid,
    remark: str = "",
    key: str = "",
    bold: Collection[tuple[int, str]] = (),
) -> str:
    """A table with caption and label, in booktabs' rules, numbers aligned by siunitx.

    Names are one column, and intervals a smaller line below their values. A table that no page
    holds is a `longtable`.

    title: the caption. remark: a comment above it. key: of the label, `tab:<key>`. bold: rows and
    columns of the values that are.
    """
    first = sum(name in LABELS for name in grid.columns) or 1
    columns = [_names([row[:first] for row in grid.rows], grid.headings[:first])]
    for place in range(first, len(grid.headings)):
        own = {row for row, column in bold if column == grid.columns[place]}
        columns.append(_column([row[place] for row in grid.rows], grid.headings[place], own))
    shared = ", ".join(f"{name} {value}" for name, value in grid.shared.items())
    caption = escape(f"{title} For {shared}." if shared else title)
    comments = [f"% {text}\n" for text in (PACKAGES, " ".join(remark.split())) if text]
    mark = "tab:" + re.sub(r"[^\w+.-]", "-", key)
    return "".join(comments) + _table(columns, f"\\caption{{{caption}}}\\label{{{mark}}}")


def escape(text: str) -> str:
    """Text that LaTeX typesets as it is."""
    return "".join(SYMBOLS.get(character, character) for character in text)


def _table(columns: Sequence[Column], caption: str) -> str:
    alignment = f"{{@{{}}{''.join(column.alignment for column in columns)}@{{}}}}"
    head = ["\\toprule", *_lines([column.heading for column in columns]), "\\midrule"]
    rows = [_lines(cells) for cells in zip(*(column.rows for column in columns), strict=True)]
    space = ["\\addlinespace"] if any(len(lines) > 1 for lines in rows) else []
    body = [line for lines in rows for line in [*lines, *space]]
    setup = ["\\small", "\\setlength{\\tabcolsep}{4pt}", SETUP]
    if len(rows) > LONGEST:
        parts = ["\\begingroup", *setup, f"\\begin{{longtable}}{alignment}", f"{caption}\\\\"]
        parts += [
            *head,
            "\\endfirsthead",
            *head,
            "\\endhead",
            *body,
            "\\bottomrule",
            "\\end{longtable}",
            "\\endgroup",
        ]
    else:
        parts = ["\\begin{table}[tbp]", "\\centering", *setup, caption]
        parts += [f"\\begin{{tabular}}{alignment}", *head, *body, "\\bottomrule"]
        parts += ["\\end{tabular}", "\\end{table}"]
    return "\n".join([*parts, ""])


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a row, of cells with lines of their own; no page ends between them."""
    lines = [" & ".join(line) for line in zip_longest(*cells, fillvalue="")]
    lines = [f"{{}}{line}" if line.startswith("[") else line for line in lines]  # no option of \\
    return [*(rf"{line} \\*" for line in lines[:-1]), rf"{lines[-1]} \\"]


def _names(rows: Sequence[Sequence[Value]], headings: Sequence[str]) -> Column:
    """Labels in one column, one large; a baseline has a line of its own."""
    own = [-1] if headings[-1] == "baseline" else []

    def stacked(labels: Sequence[str]) -> list[str]:
        small = [" / ".join(labels[1 : len(labels) - len(own)]), *(labels[i] for i in own)]
        return [escape(labels[0]), *(line for text in small for line in _small(text))]

    long = max((len(row[0].text) for row in rows), default=0) > WIDEST
    made = [stacked([value.text for value in row]) for row in rows]
    return Column(SENTENCES if long else "l", stacked(headings), made)


def _column(values: Sequence[Value], heading: str, bold: set[int]) -> Column:
    texts = [value.text.replace(MINUS, "-") for value in values]
    parsed = [match for text in texts if (match := NUMBER.fullmatch(text))]
    if not parsed or {text for text in texts if not NUMBER.fullmatch(text)} - NO_NUMBERS:
        rows = [[escape(value.text), *_small(value.interval)] for value in values]
        return Column("l", [escape(heading)], rows)
    if any(text.endswith("%") for text in texts):
        heading = re.sub(r"^(.*?)( [↑↓])?$", r"\1 [%]\2", heading)
    whole, decimals = (max(len(match[group] or "") for match in parsed) for group in (2, 3))
    sign = "+" if any(match[1] for match in parsed) else ""
    rows = [
        [_number(text, row in bold), *_small(value.interval.replace("%", ""))]
        for row, (text, value) in enumerate(zip(texts, values, strict=True))
    ]
    alignment = f"S[table-format={sign}{whole}.{decimals}]"
    return Column(alignment, [f"{{{escape(heading)}}}"], rows)


def _number(text: str, bold: bool) -> str:
    if not NUMBER.fullmatch(text):
        return f"{{{escape(text.replace('-', MINUS))}}}"
    return ("\\bfseries " if bold else "") + text.rstrip("%")


def _small(text: str) -> list[str]:
    """Small lines: what is in brackets, and what follows it."""
    parts = re.split(r"(?<=[\])]) ", text) if text else []
    return [f"{{\\scriptsize {escape(part)}}}" for part in parts]
