"""Reported values stand beside the measured ones of the same cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_tables import study, tabulate

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.claims import read_as
from cloakbench.experiment.config import load
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.reported import Reported
from cloakbench.tables import write_reported


def test_a_reported_value_stands_beside_the_measured_one(tmp_path: Path) -> None:
    """And beside a dash where the cell, or the metric, has not been measured."""
    cells = ["aspl/none/cdl", "fsmg/none/cdl", "aspl/none/cdl", "aspl/none"]
    told = [
        {"cell": cell, "metric": metric, "value": -0.25, "place": "table 1"}
        for cell, metric in zip(cells, ["relative_ism", "relative_ism", "ims", "linf"], strict=True)
    ]
    reported = Reported.model_validate({"source": "Somebody 2024", "values": told})
    tables = tabulate(study(tmp_path), tmp_path)

    write_reported("mini", reported, tables, tmp_path / "tables")

    rows = (tmp_path / "tables" / "reported.md").read_text("utf-8").splitlines()
    measured = [row.split("|")[6].strip() for row in rows if "table 1" in row]
    assert measured[0].startswith("0.25")
    assert measured[1:] == ["\N{EN DASH}"] * 2 + ["11"]
    assert any("Reported: Somebody 2024." in row for row in rows)
    assert (tmp_path / "tables" / "reported.csv").exists()


def test_what_the_paper_reports_is_of_cells_that_its_grid_has() -> None:
    config = load([REPOSITORY / "config.yaml", REPOSITORY / "config" / "paper.yaml"])
    told = str(REPOSITORY / "claims" / "reported.yaml")
    paper = Experiment.parse(config | {"reported": told})

    assert paper.reported is not None
    named = {metric.name for metric in paper.metrics}
    for each in paper.reported.values:
        protection, purification, *trainer = each.cell.split("/")
        assert protection in paper.protections
        assert purification in paper.purifiers
        assert {*trainer} <= paper.trainers.keys()
        assert each.metric in named


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("cell: a/b/c, metric: imz", "unknown metric 'imz'"),
        ("cell: a/b/c@photo, metric: ims", "means are of samples of all prompts"),
    ],
)
def test_a_value_that_no_table_can_have_is_one_line(value: str, said: str, tmp_path: Path) -> None:
    told = f"source: x\nvalues: [{{{value}, value: 1, place: y}}]\n"
    (tmp_path / "reported.yaml").write_text(told)

    with pytest.raises(CloakBenchError, match=rf"reported\.yaml: .*{said}"):
        read_as(Reported, tmp_path / "reported.yaml")
