"""The figures of a report: which there are, by what an experiment names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cloakbench.report.curves import Methods, axes, curve_plot
from cloakbench.report.heat_map import heat_map, is_map
from cloakbench.report.plot import score_plot
from cloakbench.tables import Tables


class Figure(NamedTuple):
    """A figure, which is on the page and a file of its own name.

    words: what it shows, for those who cannot see it. wanted: whether an experiment of such
    methods has it. draw: its SVG; "" where the tables have nothing to draw.
    """

    name: str
    title: str
    words: str
    wanted: Callable[[Methods], bool]
    draw: Callable[[Tables, Methods], str]


def _learning(methods: Methods) -> int:
    """How many trainers learn anything."""
    return sum(getattr(trainer, "learns", True) for trainer in methods.get("trainer", {}).values())


FIGURES = (
    Figure(
        "scores",
        "Figure",
        "scores of every cell with 95 % intervals",
        lambda methods: True,
        lambda tables, methods: score_plot(tables),
    ),
    Figure(
        "curves",
        "Curves",
        "scores with 95 % intervals against a setting, and dashed what controls give",
        lambda methods: bool(axes(methods)),
        curve_plot,
    ),
    Figure(
        "interactions",
        "Scores of purifications by trainers",
        "scores of each purification with each trainer, darker where a protection is undone",
        lambda methods: is_map(len(methods.get("purification", ())), _learning(methods)),
        lambda tables, methods: heat_map(tables),
    ),
)


def figures(methods: Methods) -> list[Figure]:
    """The figures of an experiment."""
    return [figure for figure in FIGURES if figure.wanted(methods)]
