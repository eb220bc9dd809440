"""Tables as the page shows them: few columns first, each with what it means."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from cloakbench.files.layout import CELL_LABELS
from cloakbench.score.base import metrics
from cloakbench.tables.display import Grid, Value

TERMS = {
    "cell": "One combination of a protection, a purification and a trainer; what all rows share is "
    "said above the table.",
    "prompt": "The key of the prompt that the samples are of; the config has its words.",
    "budget": "The most that the protection may change a pixel, in grey levels of 255.",
    "steps": "Gradient steps for each photo, as a share of the method's default; training steps of "
    "a surrogate are not counted.",
    "identities": "People whose photos were used.",
    "images": "Samples of all of them: images that the personalised models made.",
    "faces": "Samples in which a face was found.",
    "baseline": "What the cell is compared with: the cell with controls in these places.",
    "claim": "What is claimed; written down before the run.",
    "source": "Who claims it.",
    "verdict": "Holds or is contradicted, where people decide it; else undecided.",
    "endpoint": "The metric that decides.",
    "test": "What the claim says of the cells: lower, higher, level, or a rising trend.",
    "effect": "The mean difference that decides, with its interval.",
    "p": "How often chance alone makes as large a difference.",
    "p by Holm": "The same after Holm's correction for all claims.",
    "Wilcoxon": "p of his signed-rank test of the same differences, not corrected.",
    "n": "People who have a value; of a claim, of those that were planned.",
    "metric": "What is measured.",
    "seeds": "How often each person's cell is repeated, with other draws.",
    "mean": "Of all people and seeds.",
    "SD of people": "How much people differ from each other in truth.",
    "SD of seeds": "How much one person differs from seed to seed.",
    "share of seeds": "Of the variance of people's means, the part that is due to seeds.",
    "people": "About how many people would decide the claim, were all like these.",
}
"""What columns that are no metrics say."""


class Heading(NamedTuple):
    """A column's heading, and a smaller line; `more`: shown on request only."""

    text: str
    rest: str
    more: bool


class Row(NamedTuple):
    """A row: what it is about, in a main and a smaller line, and the values of its columns."""

    main: str
    rest: str
    values: list[Value]


class View(NamedTuple):
    """A table with an id and a name; the first heading is of the rows' names.

    terms: columns with what they mean.
    """

    key: str
    name: str
    headings: list[Heading]
    rows: list[Row]
    shared: dict[str, str]
    terms: list[tuple[str, str, str]]
    remark: str

    @property
    def more(self) -> int:
        """How many columns are shown on request only."""
        return sum(heading.more for heading in self.headings)


def view(key: str, name: str, grid: Grid, shown: Collection[str], remark: str = "") -> View:
    """A table whose first columns, the cell's labels, are one, and of which some are shown.

    shown: columns, besides the first.
    """
    first = sum(column in CELL_LABELS for column in grid.columns) or 1
    columns = grid.columns[first:]
    headings = [Heading(grid.headings[0], " / ".join(grid.headings[1:first]), False)]
    headings += [
        Heading(text, "", column not in shown)
        for text, column in zip(grid.headings[first:], columns, strict=True)
    ]
    rows = [
        Row(row[0].text, " / ".join(value.text for value in row[1:first]), row[first:])
        for row in grid.rows
    ]
    named = "cell" if grid.columns[0] in CELL_LABELS else grid.columns[0]
    return View(key, name, headings, rows, grid.shared, _terms([named, *columns]), remark)


def _terms(columns: Iterable[str]) -> list[tuple[str, str, str]]:
    """Names, meanings and sources."""
    known = set(metrics.names())
    return [
        (metrics[name].title, metrics[name].summary(), metrics[name].source)
        if name in known
        else (name, TERMS[name], "")
        for name in columns
    ]
