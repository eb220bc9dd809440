"""One figure for all cells: likeness, missing faces and quality with their intervals."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd

from cloakbench.score.base import metrics
from cloakbench.tables import Tables
from cloakbench.tables.display import heading
from cloakbench.tables.findings import Way, first_way
from cloakbench.tables.measures import IDENTITY, main_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour, light or dark; swapped after drawing
NAMES = ("model", "dataset", "protection", "purification", "trainer")
STYLE = (
    "<style>svg{color:#1d1f23;font-family:system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e8e6e1}}</style>"
)
"""Colours of the figure as a file, which no page lends its own."""


class Look(NamedTuple):
    """A colour and a shape for cells of a kind, so that either tells them apart."""

    colour: str
    marker: str
    words: str


# Okabe and Ito's colours, the last darker: all stand out from white and black pages by 3 to 1
CONTROL = Look(INK, "o", "controls")
PROTECTED = Look("#0072b2", "s", "protected photos")
UNDONE = Look("#d55e00", "^", "protected photos, purified or learnt in another way")
LOOKS = (PROTECTED, UNDONE, Look("#009e73", "D", "a third"), Look("#bd6b98", "v", "a fourth"))


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "cloakbench",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
        }
    ):
        yield


def score_plot(tables: Tables) -> str:
    """A mark per cell with its 95 % interval, one panel per metric, as inline SVG.

    Args:
        tables: of which the summary is drawn, in its order.

    Returns:
        An `<svg>` element whose text takes the page's colour; "" if no metric has values.
    """
    import matplotlib.figure

    summary, names = tables.summary, main_metrics(tables.summary)
    if not names:
        return ""
    with drawing():
        figure = matplotlib.figure.Figure(
            figsize=(10, 1.2 + 0.25 * len(summary)), layout="constrained"
        )
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        looks = [_look(row, tables) for row in summary.to_dict("records")]
        for axes, name in zip(panels, names, strict=True):
            _panel(axes, summary, name, looks)
            axes.set_xlabel(heading(name, tables.contrary))
        panels[0].set_yticks(range(len(summary)), _row_names(summary))
        panels[0].invert_yaxis()
        _legend(figure, looks)
        return inline_svg(figure)


def standalone(svg: str) -> str:
    """The figure as a file: with colours of its own, dark where its reader's are."""
    return re.sub("(<svg[^>]*[^/])>", rf"\1>{STYLE}", svg, count=1)


def _look(row: Mapping[Any, Any], tables: Tables) -> Look:
    if row["protection"] in tables.controls.protection:
        return CONTROL
    same = Way(row["purification"], row["trainer"]) == first_way(tables)
    return PROTECTED if same else UNDONE


def _row_names(summary: pd.DataFrame) -> list[str]:
    varying = [name for name in NAMES if summary[name].nunique() > 1] or ["protection"]
    rows = summary[varying].itertuples(index=False)
    return [plain(map(str, row)) for row in rows]


def _panel(axes: Axes, summary: pd.DataFrame, name: str, looks: list[Look]) -> None:
    for position, (row, look) in enumerate(zip(summary.to_dict("records"), looks, strict=True)):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if not math.isnan(low):
            axes.plot([low, high], [position, position], color=look.colour, linewidth=1.5)
        axes.plot(row[name], position, look.marker, color=look.colour, markersize=5)
    changes = summary["protection"].ne(summary["protection"].shift())
    for position in [index for index, new in enumerate(changes) if new][1:]:
        axes.axhline(position - 0.5, color=INK, linewidth=0.6, alpha=0.35)
    for tick in (0, 1) if name in IDENTITY else (0,):  # a stranger and the person
        axes.axvline(tick, color=INK, linewidth=0.6, alpha=0.35)
    by_axis(axes, name, "x")
    axes.set_ylim(-0.7, len(summary) - 0.3)


def by_axis(axes: Axes, name: str, which: Literal["x", "y"]) -> None:
    """Lines for the values of a metric on an axis, and shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    axes.grid(axis=which, color=INK, alpha=0.12, linewidth=0.5)
    if metrics[name].display.endswith("%"):
        (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1))


def _legend(figure: Figure, looks: list[Look]) -> None:
    from matplotlib.lines import Line2D

    there = [look for look in (CONTROL, PROTECTED, UNDONE) if look in looks]
    marks = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=5, label=look.words)
        for look in there
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks), frameon=False)


def plain(names: Iterable[str]) -> str:
    """Labels as matplotlib shows them, in which dollars begin no formula."""
    return " / ".join(names).replace("$", r"\$")


def inline_svg(figure: Figure) -> str:
    """A figure as an `<svg>` element in the colours and fonts of what is around it."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]*", r"\1 inherit", svg)
    return svg.replace(INK, "currentColor")
