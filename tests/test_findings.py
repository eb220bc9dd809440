"""Findings: what a report says of each protection, and when it says that nobody can."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_tables import BUDGETS, MADE, STEPS, study, tabulate

from cloakbench.files.layout import Cell, Layout
from cloakbench.files.text import write_scores
from cloakbench.tables import make_tables, print_summary, write_tables
from cloakbench.tables.findings import control, failure, findings, typical

EIGHT = tuple("abcdefgh")


def rescored(cells: list[Cell], root: Path, **changes) -> None:
    """Score files with other values, by metric: functions of the cell and the person's number."""
    people = {name: number for number, name in enumerate(sorted({c.identity for c in cells}))}
    for cell in cells:
        path = Layout(root).scores(cell)
        scores = pd.read_csv(path, dtype={"image": str})
        values = {k: change(cell, people[cell.identity]) for k, change in changes.items()}
        write_scores(scores.assign(**values), path, MADE)


def likeness(harm: float):
    """Of ASPL where nothing undoes it; nothing else harms, and people differ a little."""

    def value(cell: Cell, person: int) -> float:
        hit = cell.protection == "aspl" and cell.trainer == "dreambooth"
        shift = 0.001 * person * (1 + (cell.protection == "aspl"))
        alternating = 0.02 * (-1) ** person * (cell.protection == "aspl")
        return 0.6 - harm * hit + shift + alternating

    return value


@pytest.mark.parametrize(
    ("harm", "verdict"), [(0.3, "holds"), (-0.3, "contradicted"), (0, "undecided")]
)
def test_enough_people_decide_whether_a_protection_holds(
    harm: float, verdict: str, tmp_path: Path
) -> None:
    cells = study(tmp_path, EIGHT)
    rescored(cells, tmp_path, relative_ims=likeness(harm))

    [found] = findings(tabulate(cells, tmp_path))

    assert found.protection == "aspl"
    assert found.identity.metric == "relative_ims"
    assert found.identity.verdict == verdict
    assert not found.identity.few
    assert found.undone is not None
    assert (found.undone.verdict, found.undone.way.trainer) == ("undecided", "cdl")


def test_a_protection_that_is_no_better_than_noise_is_undecided(tmp_path: Path) -> None:
    """Beside clean photos it harms; of several controls the least favourable one counts."""

    def harmed(cell: Cell, person: int) -> float:
        return (
            0.6
            - 0.3 * (cell.protection != "clean")
            + 0.01 * (-1) ** (person + (cell.protection == "aspl"))
        )

    cells = study(tmp_path, EIGHT)
    rescored(cells, tmp_path, relative_ims=harmed)

    [found] = findings(tabulate(cells, tmp_path))

    assert (found.identity.verdict, found.identity.baseline) == ("undecided", "noise")


def test_beside_a_control_that_only_one_person_has_nothing_is_decided(tmp_path: Path) -> None:
    """As in tables of what there is so far: the comparison that has no p is the doubtful one."""
    cells = study(tmp_path, EIGHT)
    rescored(cells, tmp_path, relative_ims=likeness(0.3))
    few = [cell for cell in cells if cell.protection != "noise" or cell.identity == "a"]

    [found] = findings(tabulate(few, tmp_path))

    assert (found.identity.verdict, found.identity.beside) == ("undecided", "noise")


def test_a_purification_of_protected_photos_alone_is_read_beside_clean_photos_as_they_are(
    tmp_path: Path,
) -> None:
    """It undoes most of the harm, and is told though no clean photos were purified."""
    cells, layout = study(tmp_path, EIGHT), Layout(tmp_path)
    bare = [c for c in cells if (c.protection, c.trainer) == ("aspl", "dreambooth")]
    purified = [replace(cell, purification="jpeg") for cell in bare]
    for old, new in zip(bare, purified, strict=True):
        for place in (layout.scores, layout.distances):
            frame = pd.read_csv(place(old), dtype={"image": str, "photo": str})
            write_scores(frame.assign(purification="jpeg"), place(new), MADE)

    def value(cell: Cell, person: int) -> float:
        harm = {"none": 0.3, "jpeg": 0.05}[cell.purification]
        return 0.6 - harm * (cell.protection == "aspl") + 0.001 * person * (1 + len(cell.trainer))

    rescored([*cells, *purified], tmp_path, relative_ims=value)

    [found] = findings(tabulate([*cells, *purified], tmp_path))

    assert found.undone is not None
    assert found.undone.way == ("jpeg", "dreambooth")
    assert found.undone.baseline == "clean + none"
    assert found.undone.verdict == "holds"


def test_few_people_decide_nothing_whatever_they_show(tmp_path: Path) -> None:
    cells = study(tmp_path, ("anna", "bert"))
    rescored(cells, tmp_path, relative_ims=likeness(0.5))

    [found] = findings(tabulate(cells, tmp_path))

    assert found.identity.verdict == "undecided"
    assert found.identity.few


def test_images_of_one_person_decide_nothing(tmp_path: Path) -> None:
    [found] = findings(tabulate(study(tmp_path, ("anna",)), tmp_path))

    assert found.identity.over == "images"
    assert (found.identity.verdict, found.identity.few) == ("undecided", True)
    assert math.isnan(found.identity.p)


@pytest.mark.parametrize(
    ("score", "fdfr", "learnt"), [(0.6, 0, True), (0.1, 0, False), (0.6, 0.9, False)]
)
def test_a_control_that_failed_is_noticed(score, fdfr, learnt, tmp_path: Path) -> None:
    cells = study(tmp_path)
    rescored(cells, tmp_path, relative_ims=lambda *_: score, fdfr=lambda *_: fdfr)

    tables, console = tabulate(cells, tmp_path), Console(file=io.StringIO(), width=1000)
    found = control(tables)
    write_tables("demo", tables, tmp_path, ["brisque"])
    print_summary("demo", tables, console)

    assert found is not None
    assert found.learnt is learnt
    files = [(tmp_path / f"summary.{suffix}").read_text("utf-8") for suffix in ("md", "tex")]
    assert isinstance(console.file, io.StringIO)
    for text in (*files, console.file.getvalue()):
        said = "The control failed: clean photos are not learnt (none / dream"
        assert (said in " ".join(text.split())) != learnt


def test_without_clean_photos_nothing_says_whether_people_are_learnt(tmp_path: Path) -> None:
    cells = [cell for cell in study(tmp_path) if cell.protection == "aspl"]

    assert control(tabulate(cells, tmp_path)) is None
    assert findings(tabulate(cells, tmp_path)) == []


def test_where_only_the_floor_is_scored_yet_nothing_is_found_and_nothing_fails(
    tmp_path: Path,
) -> None:
    cells = [cell for cell in study(tmp_path, EIGHT) if cell.trainer == "cdl"]
    controls = tabulate(cells, tmp_path).controls._replace(floor=("cdl",))
    tables = make_tables(cells, Layout(tmp_path), controls, BUDGETS, STEPS)

    assert failure(tables) == ""
    assert findings(tables) == []


def test_one_person_who_contradicts_leaves_no_p(tmp_path: Path) -> None:
    cells = study(tmp_path, ("anna",))
    rescored(cells, tmp_path, relative_ims=likeness(-0.3))

    [found] = findings(tabulate(cells, tmp_path))

    assert found.identity.verdict == "undecided"
    assert math.isnan(found.identity.p)


def test_the_person_that_is_shown_is_the_most_typical_one(tmp_path: Path) -> None:
    cells = study(tmp_path, EIGHT)
    harms = dict(zip(EIGHT, (0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.7), strict=True))
    rescored(
        cells,
        tmp_path,
        relative_ims=lambda cell, _: 0.7 - harms[cell.identity] * (cell.protection == "aspl"),
    )
    tables = tabulate(cells, tmp_path)
    [found] = findings(tables)

    assert typical(tables, found.identity, "aspl") == "d"  # the mean is 0.32


def test_an_arrow_that_is_wrong_here_is_left_out_and_told(tmp_path: Path) -> None:
    """BRISQUE should rise where a protection holds, and falls with ASPL on the miniature."""
    cells = study(tmp_path, EIGHT)
    rescored(
        cells,
        tmp_path,
        brisque=lambda cell, person: 45 - (25 + 0.1 * person) * (cell.protection == "aspl"),
    )
    write_tables("demo", tabulate(cells, tmp_path), tmp_path)

    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "| BRISQUE |" in text
    assert "| FDFR ↑ |" in text
    assert "Without an arrow: BRISQUE;" in text


def test_values_at_a_metrics_limit_are_counted_and_explained(tmp_path: Path) -> None:
    cells = study(tmp_path)
    limit = 155.845
    rescored(cells, tmp_path, brisque=lambda cell, _: limit if cell.protection == "aspl" else 40)
    write_tables("demo", tabulate(cells, tmp_path), tmp_path)

    for name, times in (("summary.md", 12), ("identities.md", 6)):
        text = (tmp_path / name).read_text("utf-8")
        marked = [line for line in text.splitlines() if f"at its limit {times} times" in line]
        assert len(marked) == text.count("aspl")
    assert "BRISQUE: at its limit is" in (tmp_path / "summary.md").read_text("utf-8")
