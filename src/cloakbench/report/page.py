"""Put verdicts, figures, tables and pictures on one page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench import __version__
from cloakbench.files.layout import CELL_LABELS, Cell, Layout
from cloakbench.files.text import write_text
from cloakbench.registry import Method
from cloakbench.report.evidence import IS, Evidence, evidence, exhibits, headline
from cloakbench.report.figures import figures
from cloakbench.report.gallery import PHOTOS, SAMPLES, Gallery, all_whole, galleries
from cloakbench.report.pictures import GAIN, PREVIEW, SIDE
from cloakbench.report.plot import standalone
from cloakbench.report.views import View, view
from cloakbench.score.base import DISTANCES
from cloakbench.tables.display import (
    CONTRASTS_NOTE,
    SEEDS_NOTE,
    VERDICT,
    difference_grid,
    note,
    photo_grid,
    score_grid,
    seed_grid,
    verdict_grid,
    verdicts_note,
)
from cloakbench.tables.findings import FAILED, LEARNT, control
from cloakbench.tables.measures import LEVEL, main_metrics

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment, Template
    from markupsafe import Markup

    from cloakbench.report.figures import Figure
    from cloakbench.tables import Tables

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg"/>\n'  # the figure, where no metric has values
CLAIMS = ("verdict", "effect", "p by Holm")
SPREAD = ("metric", "SD of people", "SD of seeds")
"""Columns of claims, and of what is due to seeds, that are shown first."""


def make_report(
    experiment: str,
    cells: Sequence[Cell],
    layout: Layout,
    tables: Tables,
    methods: Mapping[str, Mapping[str, Method]],
    here: Sequence[Cell] | None = None,
) -> Path:
    """Write the report of an experiment: one HTML file that needs nothing beside it, and its
    figures once more as files. Returns the page.

    Args:
        experiment: names the folder and the page.
        cells: what was run, in the order of the page.
        layout: where the results are.
        tables: of these cells.
        methods: what the cells' labels stand for, by stage.
        here: the cells whose pictures are here, if not all are.

    Raises:
        CloakBenchError: photos or samples of such a cell are missing; the message names them.
    """
    from markupsafe import Markup

    pictured = [cell for cell in (cells if here is None else here) if cell.seed == cells[0].seed]
    pictures, shown = galleries(pictured, layout, tables), evidence(pictured, layout, tables)
    views = _views(tables)
    drawn = _drawn(experiment, layout, tables, methods)
    path, people = layout.report(experiment), {(c.model, c.dataset, c.identity) for c in cells}
    write_text(
        path,
        _template().render(
            experiment=experiment,
            version=__version__,
            methods=methods,
            counts=_counts(tables.images),
            shown=_shown(len(pictures), len(people), all_whole(pictured)),
            figures=[(figure, Markup(svg)) for figure, svg in drawn],
            galleries=pictures,
            tables=views,
            contents=_contents(views, pictures, [figure for figure, _ in drawn]),
            **_results(tables, shown, _shown_claims(pictured, layout, tables)),
        ),
    )
    return path


def _drawn(
    experiment: str,
    layout: Layout,
    tables: Tables,
    methods: Mapping[str, Mapping[str, Method]],
) -> list[tuple[Figure, str]]:
    """The figures that show anything, as inline SVG; all are written, too."""
    drawn = [(figure, figure.draw(tables, methods)) for figure in figures(methods)]
    for figure, svg in drawn:
        write_text(layout.figure(experiment, figure.name), standalone(svg or EMPTY))
    return [(figure, svg) for figure, svg in drawn if svg]


def _shown_claims(cells: Sequence[Cell], layout: Layout, tables: Tables) -> list[dict[str, Any]]:
    """Claims as they are said, each with a person and pictures of hers."""
    if (verdicts := tables.verdicts) is None:
        return []
    shown = zip(
        verdict_grid(verdicts).rows,
        verdicts["person"],
        exhibits(cells, layout, verdicts),
        strict=True,
    )
    return [
        {**dict(zip(VERDICT, map(str, row), strict=True)), "person": person, "pictures": pictures}
        for row, person, pictures in shown
    ]


def _results(
    tables: Tables, shown: list[Evidence], claims: list[dict[str, Any]]
) -> dict[str, object]:
    """What the page says first."""
    verdicts = tables.verdicts
    learnt = control(tables)
    failed = learnt is not None and not learnt.learnt
    return {
        "headline": FAILED if failed else headline(shown, verdicts),
        "claims": claims,
        "claims_level": None if verdicts is None else verdicts["level"].iloc[0],
        "control": learnt,
        "evidence": shown,
    }


def _views(tables: Tables) -> list[View]:
    """The tables of the page, in order; those that say most first."""
    against, names = tables.contrary, main_metrics(tables.summary)
    remark = note(tables.summary, against)
    scores = score_grid(tables.summary, contrary=against)
    made = [view("scores", "Scores", scores, names, remark)]
    if len(tables.contrasts):
        differences = difference_grid(tables.contrasts, against)
        columns = ("baseline", *names[:2])
        title = "Differences to the controls"
        made.append(view("differences", title, differences, columns, CONTRASTS_NOTE))
    if tables.prompts is not None:
        scores = score_grid(tables.prompts, contrary=against)
        remark = note(tables.prompts, against)
        made.append(view("prompts", "By prompt", scores, ("prompt", *names), remark))
    if tables.verdicts is not None:
        claims = verdict_grid(tables.verdicts)
        made.append(view("claims", "Claims", claims, CLAIMS, verdicts_note(tables.verdicts)))
    if tables.seeds is not None:
        spreads = seed_grid(tables.seeds)
        made.append(view("seeds", "People and seeds", spreads, SPREAD, SEEDS_NOTE))
    photos = photo_grid(tables.photos)
    return [*made, view("photos", "Photos against their originals", photos, DISTANCES)]


def _contents(
    views: list[View], pictures: list[Gallery], drawn: list[Figure]
) -> list[tuple[str, str]]:
    """Sections by id and title."""
    return [
        ("verdicts", "What holds"),
        *((f"figure-{figure.name}", figure.title) for figure in drawn),
        *((each.key, each.name) for each in views),
        *([("pictures", "Pictures")] if pictures else []),
        ("methods", "Methods"),
    ]


def templates(folder: Path) -> Environment:
    """The pages in a folder, into which text goes escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template() -> Template:
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = templates(folder)
    environment.filters["prose"] = _prose
    environment.globals |= {
        "said": IS,
        "gain": GAIN,
        "level": LEVEL,
        "learnt": LEARNT,
        "style": Markup((folder / "page.css").read_text("utf-8")),
        "script": Markup((folder / "page.js").read_text("utf-8")),
    }
    return environment.get_template("template.html")


def _shown(pictures: int, people: int, whole: bool) -> str:
    """What of all pictures the page has. whole: see `all_whole`."""
    whose = f"{pictures} of {people} people" if pictures < people else "all people"
    return (
        f"Of {whose}, the first {PHOTOS} photos of a set and the first {SAMPLES} samples of a "
        f"prompt, at {SIDE} px at most"
        + ("." if whole else f"; but for the first of each row, at {PREVIEW} px at most.")
    )


def _prose(text: str) -> Markup:
    """A docstring's sentence as HTML: what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _counts(images: pd.DataFrame) -> str:
    """How much has been scored."""
    identities, cells = (
        len(images[names].drop_duplicates())
        for names in (["model", "dataset", "identity"], [*CELL_LABELS])
    )
    return ", ".join(
        f"{number} {one if number == 1 else many}"
        for number, one, many in (
            (identities, "identity", "identities"),
            (cells, "cell", "cells"),
            (len(images), "sample", "samples"),
        )
    )
