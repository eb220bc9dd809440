"""Scores from several machines: one table, whichever of them scored a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import REPOSITORY
from test_tables import BUDGETS, STEPS, study, tabulate

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.provenance import make_provenance
from cloakbench.files.layout import CELL_LABELS, Cell, Controls, Layout
from cloakbench.tables import Tables, make_tables, read_elsewhere, write_tables

PEOPLE = tuple("abcdefgh")
CONTROLS = Controls(("clean", "noise"), ("none",), ("dreambooth",))
SETTINGS: dict[str, Any] = {
    "config": {
        "experiment": "study",
        "faces": "dlib",
        "identities": [*PEOPLE],
        "seeds": [0],
        "protections": [{"name": "aspl", "method": "aspl", "budget": "11/255"}],
    },
    "weights": {"unet.safetensors": "12ab"},
}


def tables_of(root: Path, people: Sequence[str], **said: Any) -> Path:
    """A folder of tables of some people, as another machine writes them."""
    made = tabulate(study(root, tuple(people)), root)
    write_tables("study", made, root / "tables")
    (root / "tables" / "provenance.json").write_text(json.dumps(SETTINGS | said))
    return root / "tables"


def pooled(root: Path, cells: list[Cell], *folders: Path) -> Tables:
    elsewhere = [read_elsewhere(each, cells, SETTINGS) for each in folders]
    return make_tables(cells, Layout(root), CONTROLS, BUDGETS, STEPS, elsewhere=elsewhere)


def test_a_study_in_parts_has_the_tables_of_a_whole_one(tmp_path: Path) -> None:
    cells = study(tmp_path / "whole", PEOPLE)
    whole = tabulate(cells, tmp_path / "whole")
    study(tmp_path / "here", PEOPLE[2:5])

    found = pooled(
        tmp_path / "here",
        cells,
        tables_of(tmp_path / "one", PEOPLE[5:]),
        tables_of(tmp_path / "two", PEOPLE[:2]),
    )

    assert found.frames.keys() == whole.frames.keys()
    for name, frame in whole.frames.items():
        pd.testing.assert_frame_equal(found.frames[name], frame, check_dtype=False, obj=name)


def test_tables_alone_are_enough(tmp_path: Path) -> None:
    cells = study(tmp_path / "whole", PEOPLE)

    found = pooled(tmp_path / "nothing", cells, tables_of(tmp_path / "one", PEOPLE[:6]))

    assert set(found.summary["identities"]) == {6}


def test_what_is_scored_here_counts_where_a_cell_is_in_both_places(tmp_path: Path) -> None:
    cells = study(tmp_path / "here", PEOPLE)
    folder = tables_of(tmp_path / "other", PEOPLE)
    images = pd.read_csv(folder / "images.csv", dtype={"image": str, "seed": str})
    images.assign(relative_ism=-0.5).to_csv(folder / "images.csv", index=False)

    found = pooled(tmp_path / "here", cells, folder)

    pd.testing.assert_frame_equal(
        found.images, tabulate(cells, tmp_path / "here").images, check_dtype=False
    )


def test_people_of_no_cell_are_left_out(tmp_path: Path) -> None:
    cells = study(tmp_path / "here", PEOPLE[:3])

    found = pooled(tmp_path / "here", cells, tables_of(tmp_path / "other", PEOPLE))

    assert set(found.images["identity"]) == {*PEOPLE[:3]}


def test_other_people_and_seeds_are_no_other_settings(tmp_path: Path) -> None:
    config = SETTINGS["config"] | {"identities": ["a"], "seeds": [3], "results": "elsewhere"}
    config["keep_weights"] = True  # the images are the same
    cells = study(tmp_path / "here", PEOPLE)

    read_elsewhere(tables_of(tmp_path / "other", "a", config=config), cells, SETTINGS)


def test_a_setting_that_is_newer_than_the_tables_is_at_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    experiment = Experiment.read([str(REPOSITORY / "config.yaml")])
    here = make_provenance(experiment)
    older = json.loads(json.dumps(here))
    del older["config"]["trainers"][0]["weight_decay"], older["config"]["keep_weights"]
    folder = tables_of(tmp_path / "other", "a", config=older["config"])

    with pytest.raises(CloakBenchError, match="has no cell"):  # its settings are these
        read_elsewhere(folder, experiment.cells(), here)

    older["config"]["trainers"][0]["weight_decay"] = 0.5
    (folder / "provenance.json").write_text(json.dumps(older))
    with pytest.raises(CloakBenchError, match=r"these \(dreambooth\)"):
        read_elsewhere(folder, experiment.cells(), here)


def test_another_experiment_may_have_some_of_the_cells(tmp_path: Path) -> None:
    """Its methods of other names say nothing of these cells."""
    cells = study(tmp_path / "here", PEOPLE[:3])
    jpeg, suffix = {"name": "jpeg", "method": "jpeg"}, {"name": "suffix", "method": "dreambooth"}
    config = SETTINGS["config"] | {"experiment": "wide", "purifications": [jpeg]}
    config["trainers"] = [suffix]

    found = pooled(tmp_path / "here", cells, tables_of(tmp_path / "other", PEOPLE, config=config))

    assert set(found.images["identity"]) == {*PEOPLE[:3]}


def test_tables_without_any_of_the_cells_are_named(tmp_path: Path) -> None:
    cells = study(tmp_path / "here", PEOPLE[:3])
    folder = tables_of(tmp_path / "other", PEOPLE[5:])

    with pytest.raises(CloakBenchError, match="tables: has no cell of this experiment"):
        read_elsewhere(folder, cells, SETTINGS)


STRONGER = {"name": "aspl", "method": "aspl", "budget": "16/255"}


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"config": SETTINGS["config"] | {"faces": "insightface"}}, "faces"),
        ({"config": SETTINGS["config"] | {"protections": [STRONGER]}}, "aspl"),
        ({"weights": {"unet.safetensors": "34cd"}}, "unet.safetensors"),
    ],
)
def test_scores_of_another_experiment_are_refused(
    said: dict[str, Any], named: str, tmp_path: Path
) -> None:
    cells = study(tmp_path / "here", PEOPLE)
    folder = tables_of(tmp_path / "other", PEOPLE, **said)

    with pytest.raises(CloakBenchError, match=rf"other settings or weights than these \({named}\)"):
        read_elsewhere(folder, cells, SETTINGS)


@pytest.mark.parametrize("name", ["images.csv", "distances.csv", "provenance.json"])
def test_a_folder_without_tables_is_named(name: str, tmp_path: Path) -> None:
    cells = study(tmp_path / "here", PEOPLE)
    folder = tables_of(tmp_path / "other", PEOPLE)
    (folder / name).unlink()

    with pytest.raises(CloakBenchError, match=f"tables: has no tables to pool .*{name}"):
        read_elsewhere(folder, cells, SETTINGS)


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    cells = study(tmp_path / "here", PEOPLE)
    folder = tables_of(tmp_path / "other", PEOPLE)
    images = pd.read_csv(folder / "images.csv", dtype={"image": str, "seed": str})
    images.assign(fdfr=3.0).to_csv(folder / "images.csv", index=False)

    with pytest.raises(CloakBenchError, match=r"images.csv: fdfr of 3 is not in \[0, 1\]"):
        read_elsewhere(folder, cells, SETTINGS)

    images.drop(columns=CELL_LABELS[4]).to_csv(folder / "images.csv", index=False)
    with pytest.raises(CloakBenchError, match=r"images.csv: has no column 'protection'"):
        read_elsewhere(folder, cells, SETTINGS)


@pytest.mark.parametrize("key", ["claims", "reported"])
def test_parts_may_be_read_with_other_claims(key: str, tmp_path: Path) -> None:
    """Scores are the same, whatever is claimed of them."""
    cells = study(tmp_path / "here", PEOPLE)
    told = {**SETTINGS["config"], key: "mine.yaml"}

    found = pooled(tmp_path / "here", cells, tables_of(tmp_path / "one", PEOPLE[5:], config=told))

    assert len(found.identities) > 0
