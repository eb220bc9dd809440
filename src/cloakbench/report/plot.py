"""One figure for all cells: identity and missing faces with their intervals."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING

import pandas as pd

from cloakbench.score.base import metrics
from cloakbench.tables.display import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour, light or dark; swapped after drawing
# Okabe and Ito's colours, readable on white and on black and with colour-blind eyes
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
PANELS = (
    ("relative_ims", "relative_ism", "ism"),
    ("fdfr",),
)  # the first metric of each that has values
NAMES = ("model", "dataset", "protection", "purification", "trainer")


def score_plot(summary: pd.DataFrame) -> str:
    """A dot per cell with its 95 % interval, one panel per metric, as inline SVG.

    Args:
        summary: one row per cell, as `tables.summary.by_cell` gives it.

    Returns:
        An `<svg>` element whose text takes the page's colour; "" if no metric has values.
    """
    import matplotlib.figure

    chosen = [next((n for n in panel if _has_values(summary, n)), None) for panel in PANELS]
    names = [name for name in chosen if name is not None]
    if not names:
        return ""
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "cloakbench",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
        }
    ):
        figure = matplotlib.figure.Figure(
            figsize=(9, 1.1 + 0.26 * len(summary)), layout="constrained"
        )
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _panel(axes, summary, name)
        panels[0].set_yticks(range(len(summary)), _row_names(summary))
        panels[0].invert_yaxis()
        return _inline_svg(figure)


def _has_values(summary: pd.DataFrame, name: str) -> bool:
    return name in summary and bool(summary[name].notna().any())


def _row_names(summary: pd.DataFrame) -> list[str]:
    varying = [name for name in NAMES if summary[name].nunique() > 1] or ["protection"]
    return [" / ".join(map(str, row)) for row in summary[varying].itertuples(index=False)]


def _panel(axes: Axes, summary: pd.DataFrame, name: str) -> None:
    from matplotlib.ticker import PercentFormatter

    order = list(dict.fromkeys(summary["protection"]))
    for position, row in enumerate(summary.to_dict("records")):
        colour = COLOURS[order.index(row["protection"]) % len(COLOURS)]
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if not math.isnan(low):
            axes.plot([low, high], [position, position], color=colour, linewidth=2, alpha=0.6)
        axes.plot(row[name], position, "o", color=colour, markersize=5)
    if metrics[name].display.endswith("%"):
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(f"{metrics[name].title} {ARROWS[metrics[name].protects]}")
    for tick in (0, 1):
        axes.axvline(tick, color=INK, linewidth=0.6, alpha=0.35)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.5)
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


def _inline_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    return svg.replace(INK, "currentColor")
