"""Curves: scores against a setting of a method, such as steps, budget or share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from cloakbench.files.layout import trained
from cloakbench.registry import Method
from cloakbench.report.plot import INK, LOOKS, NAMES, Look, by_axis, drawing, inline_svg, plain
from cloakbench.tables import Tables
from cloakbench.tables.display import heading
from cloakbench.tables.measures import main_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 3  # values of a setting that make a curve
PART = "snapshots"  # a setting by which a training and its snapshots differ beside their steps
STROKES = ("-", "--", ":")  # of curves, where looks are used up
DASHES = ((4, 2), (1, 2), (6, 2, 1, 2))  # of controls

Methods = Mapping[str, Mapping[str, Method]]
"""What an experiment's labels stand for, by stage."""


class Axis(NamedTuple):
    """A setting in which entries of a stage differ, and in nothing else.

    lines: its values by label, of each set of such entries.
    """

    stage: str
    setting: str
    title: str
    lines: list[dict[str, float]]


class Curve(NamedTuple):
    """Rows of the summary in the order of a setting, whose values are in their column `x`."""

    name: str
    rows: pd.DataFrame


def axes(methods: Methods) -> list[Axis]:
    """The settings that make curves: numbers of three values or more, where all else is equal.

    They are found by the experiment's entries alone, as by a person who reads the config.
    """
    return [
        Axis(stage, setting, title, lines)
        for stage, labelled in methods.items()
        for setting, title in _numbers(labelled).items()
        if (lines := _lines(labelled, setting))
    ]


def curve_plot(tables: Tables, methods: Methods) -> str:
    """A row of panels per axis, a panel per metric that tells most, as inline SVG.

    Means with their 95 % intervals; dashed lines are controls, which do not have the setting, with
    the first one's interval as a band.

    Returns:
        An `<svg>` element as of `plot.score_plot`; "" if there is nothing to draw.
    """
    import matplotlib.figure

    found, names = axes(methods), main_metrics(tables.summary)
    if not found or not names:
        return ""
    with drawing():
        size = 10, 0.4 + 2.6 * len(found)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        rows = figure.subplots(len(found), len(names), squeeze=False)
        for axis, panels in zip(found, rows, strict=True):
            curves, levels = [*_curves(tables, axis)], [*_levels(tables, axis)]
            for panel, name in zip(panels, names, strict=True):
                _panel(panel, name, curves, levels)
                panel.set_ylabel(heading(name, tables.contrary))
            panels[len(panels) // 2].set_xlabel(axis.title)
            panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return inline_svg(figure)


def _numbers(labelled: Mapping[str, Method]) -> dict[str, str]:
    """Settings that are numbers, with what they say."""
    return {
        setting: str(type(method).model_fields[setting].description)
        for method in labelled.values()
        for setting in type(method).model_fields
        if _is_number(method, setting)
    }


def _is_number(method: Method, setting: str) -> bool:
    field = type(method).model_fields.get(setting)
    return field is not None and field.annotation in {int, float}


def _lines(labelled: Mapping[str, Method], setting: str) -> list[dict[str, float]]:
    alike: dict[str, dict[str, float]] = {}
    for label, method in labelled.items():
        if _is_number(method, setting):
            rest = {k: v for k, v in method.spec().items() if k not in {setting, PART}}
            own = alike.setdefault(json.dumps(rest, sort_keys=True), {})
            own[label] = getattr(method, setting)
    return [line for line in alike.values() if len({*line.values()}) >= FEWEST]


def _curves(tables: Tables, axis: Axis) -> Iterator[Curve]:
    for line in axis.lines:
        rows = _rows(tables.summary, axis, line)
        rows = rows.assign(x=rows[axis.stage].map(line)).sort_values("x", kind="stable")
        shared = _shared([*line])
        for others, own in _groups(rows, axis):
            if len(own) > 1:
                yield Curve(plain([shared or axis.stage, *others]), own)


def _shared(labels: Sequence[str]) -> str:
    """How labels begin, without marks and digits that tell them apart."""
    same = takewhile(lambda letters: len({*letters}) == 1, zip(*labels, strict=False))
    return re.sub(r"[\W_]+\d*$", "", "".join(letters[0] for letters in same))


def _levels(tables: Tables, axis: Axis) -> Iterator[Curve]:
    """Controls that have no place on the axis, a row each."""
    controls = tables.controls
    known = {*controls._asdict()[axis.stage], *controls.floor}
    labels = known - {label for line in axis.lines for label in line}
    rows = _rows(tables.summary, axis, labels)
    for others, own in _groups(rows, axis):
        for label, row in own.groupby(axis.stage, sort=False):
            yield Curve(plain([str(label), *others]), row)


def _rows(summary: pd.DataFrame, axis: Axis, labels: Iterable[str]) -> pd.DataFrame:
    """Rows of some labels; of trainings that went on only where steps are the axis."""
    own = summary[summary[axis.stage].isin([*labels])]
    return own if axis.stage == "trainer" else own[own["trainer"].map(trained) == own["trainer"]]


def _groups(rows: pd.DataFrame, axis: Axis) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Rows that differ on the axis alone, with the labels by which they differ from others."""
    rest = [name for name in NAMES if name != axis.stage]
    varying = [name for name in rest if rows[name].nunique() > 1]
    for _, own in rows.groupby(rest, sort=False):
        yield [str(own[name].iloc[0]) for name in varying], own


def _panel(panel: Axes, name: str, curves: Sequence[Curve], levels: Sequence[Curve]) -> None:
    for number, level in enumerate(levels):
        [row] = level.rows.to_dict("records")
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        dashes = DASHES[number % len(DASHES)]
        panel.axhline(row[name], color=INK, linewidth=1, dashes=dashes, label=level.name)
        if number == 0 and not math.isnan(low):
            panel.axhspan(low, high, color=INK, alpha=0.1, linewidth=0)
    for number, curve in enumerate(curves):
        again, look = divmod(number, len(LOOKS))
        _draw(panel, name, curve, LOOKS[look], STROKES[again % len(STROKES)])
    by_axis(panel, name, "y")
    panel.set_xticks(sorted({x for curve in curves for x in curve.rows["x"]}))


def _draw(panel: Axes, name: str, curve: Curve, look: Look, stroke: str) -> None:
    x, rows = curve.rows["x"], curve.rows.to_dict("records")
    style: dict[str, Any] = {"color": look.colour, "linewidth": 1.5}
    marks: dict[str, Any] = {"marker": look.marker, "markersize": 5, "linestyle": stroke}
    panel.plot(x, curve.rows[name], label=curve.name, **style, **marks)
    for row in rows:
        if not math.isnan(row[f"{name}_low"]):
            panel.plot([row["x"]] * 2, [row[f"{name}_low"], row[f"{name}_high"]], **style)
