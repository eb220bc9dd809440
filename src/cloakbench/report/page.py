"""Put tables, figure and pictures on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench import __version__
from cloakbench.layout import Layout
from cloakbench.report.gallery import IDENTITIES, galleries
from cloakbench.report.pictures import GAIN
from cloakbench.report.plot import score_plot
from cloakbench.score.files import write_text
from cloakbench.score.metric import metrics
from cloakbench.tables import Plan, make_tables
from cloakbench.tables.display import distance_grid, note, score_grid
from cloakbench.tables.summary import distance_summary, metric_columns

if TYPE_CHECKING:
    from cloakbench.tables import Tables


def make_report(plan: Plan, layout: Layout) -> Path:
    """Write the report of an experiment: one HTML file that needs nothing beside it.

    Returns:
        The file, `report/<experiment>/index.html` under the layout's root.

    Raises:
        CloakBenchError: scores, photos or samples of a cell are missing; the message names them.
    """
    tables = make_tables(plan, layout)
    path = layout.report(plan.experiment)
    write_text(path, _render(plan, layout, tables))
    return path


def _render(plan: Plan, layout: Layout, tables: Tables) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    identities = {(cell.model, cell.dataset, cell.identity) for cell in plan.cells}
    return environment.get_template("template.html").render(
        experiment=plan.experiment,
        version=__version__,
        counts=_counts(plan, tables, len(identities)),
        hidden=max(0, len(identities) - IDENTITIES),
        summary=score_grid(tables.summary),
        contrasts=score_grid(tables.contrasts),
        distances=distance_grid(distance_summary(tables.distances)),
        note=note(tables.summary),
        plot=Markup(score_plot(tables.summary)),
        metrics=[metrics[name] for name in metric_columns(tables.images)],
        galleries=galleries(plan, layout, tables),
        gain=GAIN,
    )


def _counts(plan: Plan, tables: Tables, identities: int) -> str:
    people = "1 identity" if identities == 1 else f"{identities} identities"
    return f"{people}, {len(plan.cells)} cells, {len(tables.images)} samples"
