"""Put tables, figure and pictures on one page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench import __version__
from cloakbench.files.layout import Cell, Layout
from cloakbench.files.text import write_text
from cloakbench.registry import Method
from cloakbench.report.gallery import Gallery, galleries
from cloakbench.report.pictures import GAIN
from cloakbench.report.plot import score_plot
from cloakbench.score.base import metrics
from cloakbench.tables.display import (
    CONTRASTS_NOTE,
    VERDICTS_NOTE,
    difference_grid,
    note,
    photo_grid,
    score_grid,
    verdict_grid,
)
from cloakbench.tables.summary import metric_columns

if TYPE_CHECKING:
    from markupsafe import Markup

    from cloakbench.tables import Tables

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg"/>\n'  # the figure, where no metric has values


def make_report(
    experiment: str,
    cells: Sequence[Cell],
    layout: Layout,
    tables: Tables,
    methods: Mapping[str, Mapping[str, Method]],
) -> Path:
    """Write the report of an experiment: one HTML file that needs nothing beside it, and its
    figure once more as a file.

    Args:
        experiment: names the folder and the page.
        cells: what was run, in the order of the page.
        layout: where the results are.
        tables: of these cells.
        methods: what the cells' labels stand for, by stage.

    Returns:
        The file, `report/<experiment>/index.html` under the layout's root.

    Raises:
        CloakBenchError: photos or samples of a cell are missing; the message names them.
    """
    pictures = galleries(cells, layout, tables)
    plot = score_plot(tables.summary)
    write_text(layout.figure(experiment), plot or EMPTY)
    path = layout.report(experiment)
    write_text(path, _render(experiment, cells, tables, methods, pictures, plot))
    return path


def _render(
    experiment: str,
    cells: Sequence[Cell],
    tables: Tables,
    methods: Mapping[str, Mapping[str, Method]],
    pictures: list[Gallery],
    plot: str,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    identities = {(cell.model, cell.dataset, cell.identity) for cell in cells}
    return environment.get_template("template.html").render(
        experiment=experiment,
        version=__version__,
        counts=_counts(len(cells), len(tables.images), len(identities)),
        hidden=len(identities) - len(pictures),
        verdicts=None if tables.verdicts is None else verdict_grid(tables.verdicts),
        verdicts_note=VERDICTS_NOTE,
        summary=score_grid(tables.summary),
        contrasts=difference_grid(tables.contrasts),
        photos=photo_grid(tables.photos),
        note=note(tables.summary),
        contrasts_note=CONTRASTS_NOTE,
        methods=methods,
        plot=Markup(plot),
        metrics=[metrics[name] for name in metric_columns(tables.images)],
        galleries=pictures,
        gain=GAIN,
    )


def _prose(text: str) -> Markup:
    """A docstring's sentence as HTML: what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _counts(cells: int, samples: int, identities: int) -> str:
    return ", ".join(
        f"{number} {one if number == 1 else many}"
        for number, one, many in (
            (identities, "identity", "identities"),
            (cells, "cell", "cells"),
            (samples, "sample", "samples"),
        )
    )
