"""Purifications and trainers against one another: what each does where the other is there, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from cloakbench.files.layout import trained
from cloakbench.report.plot import PROTECTED, drawing, inline_svg, plain
from cloakbench.score.base import metrics
from cloakbench.tables import Tables
from cloakbench.tables.display import heading, score_value
from cloakbench.tables.measures import main_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 6  # cells of a map, with two rows and two columns or more
MOST = 4  # protections, a map each
DEEPEST = 0.6  # of the colour, on which the page's text can still be read


def is_map(purifications: int, trainers: int) -> bool:
    """Whether so many by so many make a map."""
    return min(purifications, trainers) > 1 and purifications * trainers >= FEWEST


def heat_map(tables: Tables) -> str:
    """A map per protection and metric: purifications by trainers, darker where the protection holds
    less; as inline SVG.

    Returns:
        An `<svg>` element as of `plot.score_plot`; "" for fewer cells than make a map, more
        protections than fit, or several models or datasets.
    """
    import matplotlib.figure

    summary = tables.summary[~tables.summary["trainer"].isin(tables.controls.floor)]
    summary = summary[summary["trainer"].map(trained) == summary["trainer"]]
    names, protections = main_metrics(summary), summary["protection"].unique()
    sides = [summary[name].nunique() for name in ("purification", "trainer")]
    one_study = all(summary[name].nunique() == 1 for name in ("model", "dataset"))
    if not (names and one_study and is_map(*sides)):
        return ""
    if len(protections) > MOST:
        return ""
    with drawing():
        width = 1 + 0.8 * sides[1]
        size = width * len(names), len(protections) * (0.8 + 0.5 * sides[0])
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        rows = figure.subplots(len(protections), len(names), squeeze=False)
        for protection, panels in zip(protections, rows, strict=True):
            own = summary[summary["protection"] == protection]
            for panel, name in zip(panels, names, strict=True):
                _panel(panel, own.assign(depth=_depths(summary[name], name)), name)
                panel.set_title(f"{plain([protection])}: {heading(name, tables.contrary)}")
        return inline_svg(figure)


def _depths(values: pd.Series, name: str) -> pd.Series:
    """How deep the colour is: 0 where the protection holds best, 1 where it holds least."""
    width = values.max() - values.min()
    share = (values - values.min()) / (width or 1.0)
    return 1 - share if metrics[name].protects == "higher" else share


def _panel(panel: Axes, own: pd.DataFrame, name: str) -> None:
    down, across = ([*own[key].unique()] for key in ("purification", "trainer"))
    for row in own.to_dict("records"):
        x, y = across.index(row["trainer"]), down.index(row["purification"])
        depth = 0.0 if math.isnan(row["depth"]) else row["depth"]
        panel.fill_between(
            [x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=PROTECTED.colour, alpha=DEEPEST * depth
        )
        value = score_value(row, name)
        panel.text(x, y, value.text, ha="center", va="bottom" if value.interval else "center")
        panel.text(x, y, value.interval, ha="center", va="top", fontsize=6)
    panel.set_xticks(range(len(across)), [plain([each]) for each in across])
    panel.set_yticks(range(len(down)), [plain([each]) for each in down])
    panel.set_xlim(-0.5, len(across) - 0.5)
    panel.set_ylim(len(down) - 0.5, -0.5)
    panel.tick_params(axis="x", rotation=20)
    for tick in panel.get_xticklabels():
        tick.set_horizontalalignment("right")
