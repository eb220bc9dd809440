"""Two runs beside one another: pairs of the same people, and what cannot be compared."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from test_tables import row, study, tabulate
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.files.verified import seal
from cloakbench.tables import compare, read_run, write_tables

EIGHT = tuple("abcdefgh")
CONFIG = {"faces": "dlib", "metrics": [{"method": name} for name in ("fdfr", "relative_ism")]}


def run(folder: Path, people: tuple[str, ...] = EIGHT, shift: float = 0, **config: Any) -> Path:
    """Tables of a run whose scores are shifted, more or less by person."""
    tables = tabulate(study(folder, people), folder)
    noise = {name: 0.01 * (-1) ** number for number, name in enumerate(people)}
    moved = tables.images["identity"].map(noise) + shift if shift else 0
    images = tables.images.assign(relative_ism=tables.images["relative_ism"] + moved)
    write_tables("run", tables._replace(images=images), folder / "tables")
    said = {"config": CONFIG | config}
    (folder / "tables" / "provenance.json").write_text(json.dumps(said))
    seal(folder / "tables", {"stage": "tables"})
    return folder / "tables"


def test_cells_are_paired_by_the_people_of_both_runs(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    second = run(tmp_path / "b", (*EIGHT[:6], "y", "z"), shift=0.1)

    found = compare(read_run(first), read_run(second)).differences

    assert len(found) == 6, "every cell of the study"
    cell = row(found, protection="noise", trainer="cdl")
    assert (cell["over"], cell["identities"]) == ("identities", 6)
    assert cell["relative_ism"] == pytest.approx(0.1, abs=0.01)
    assert 0.08 < cell["relative_ism_low"] < 0.1 < cell["relative_ism_high"] < 0.12
    assert cell["relative_ism_p"] == 2 / 2**6
    assert np.allclose(found["fdfr"], 0)


def test_runs_of_other_people_are_compared_without_intervals(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", tuple("stuvwxyz"), shift=0.1)

    cell = compare(read_run(first), read_run(second)).differences.iloc[0]

    assert cell["over"] == "unpaired"
    assert cell["relative_ism"] == pytest.approx(0.1, abs=0.11)
    assert math.isnan(cell["relative_ism_low"])
    assert math.isnan(cell["relative_ism_p"])


def test_metrics_that_were_measured_otherwise_are_left_out_and_named(tmp_path: Path) -> None:
    specs = [{"method": "fdfr"}, {"method": "relative_ism", "other": 1}]
    first, second = run(tmp_path / "a"), run(tmp_path / "b", metrics=specs)

    found = compare(read_run(first), read_run(second))

    assert "relative_ism" not in found.differences
    assert found.left_out == {"relative_ism": "its settings differ"}


def test_runs_of_other_face_backends_are_refused(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", faces="insightface")

    with pytest.raises(CloakBenchError, match=r"cannot be compared: .*the face backends differ"):
        compare(read_run(first), read_run(second))


def test_runs_without_a_cell_in_common_are_refused(tmp_path: Path) -> None:
    first, second = (read_run(run(tmp_path / name)) for name in "ab")
    other = second._replace(images=second.images.assign(dataset="others"))

    with pytest.raises(CloakBenchError, match="no cell of a model, dataset and methods is in both"):
        compare(first, other)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_what_are_no_tables_is_refused_in_a_line(damage: str, tmp_path: Path) -> None:
    folder = run(tmp_path)
    file = folder / "images.csv"
    file.unlink() if damage == "missing" else file.write_text(file.read_text() + "x\n")

    with pytest.raises(CloakBenchError, match=r"images\.csv") as error:
        read_run(folder)
    assert "\n" not in str(error.value)


def test_a_run_is_named_by_its_config_too(tmp_path: Path, monkeypatch) -> None:
    """One that says what differs from config.yaml, as those in config/ do."""
    monkeypatch.chdir(REPOSITORY)
    config = tmp_path / "before.yaml"
    config.write_text(yaml.safe_dump({"experiment": "run", "results": str(tmp_path / "results")}))
    folder = run(tmp_path / "made")
    shutil.copytree(folder, tmp_path / "results" / "tables" / "run")

    found = CliRunner().invoke(app, ["compare", str(config), str(folder), "--json"])

    assert found.exit_code == 0, found.output
    assert {cell["fdfr"] for cell in json.loads(found.output)["cells"]} == {0}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"7"])
def test_what_is_neither_tables_nor_a_config_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)

    found = CliRunner().invoke(app, ["compare", str(path), str(run(tmp_path / "made"))])

    assert isinstance(found.exception, CloakBenchError), found.output
    assert str(path) in str(found.exception)


def test_the_command_prints_a_table_and_gives_machines_all_of_it(tmp_path: Path) -> None:
    folders = [str(run(tmp_path / "a")), str(run(tmp_path / "b", shift=-0.2))]

    shown = CliRunner().invoke(app, ["compare", *folders], env={"COLUMNS": "160"})
    told = CliRunner().invoke(app, ["compare", *folders, "--json"])

    assert shown.exit_code == told.exit_code == 0
    assert "relative ISM ↓" in shown.output
    assert "\N{MINUS SIGN}0.200" in shown.output
    cells = json.loads(told.output)["cells"]
    assert len(cells) == 6
    assert {"fdfr", "relative_ism_low", "relative_ism_holm"} <= cells[0].keys()
