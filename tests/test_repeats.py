"""Cells repeated with several seeds: people stay the unit, and chance of training is told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_tables import study, tabulate

from cloakbench.files.layout import Cell, Layout, label
from cloakbench.files.text import write_scores
from cloakbench.tables.collect import read_table
from cloakbench.tables.repeats import repeats
from cloakbench.tables.write import write_tables

METRIC = "relative_ims"
CELL = Cell("mini", "people", "anna", "0", "aspl", "none", "cdl")


def repeated(root: Path, lift: float) -> list[Cell]:
    """A small study twice: the second seed's scores are higher, and of the same images."""
    cells, layout = study(root), Layout(root)
    others = [replace(cell, seed="1") for cell in cells]
    for cell, other in zip(cells, others, strict=True):
        for place in (layout.scores, layout.distances):
            table = read_table(place(cell)).assign(seed="1")
            if "relative_ism" in table:
                table["relative_ism"] += lift
            write_scores(table, place(other), {"stage": "test"})
    return [*cells, *others]


def simulated(people: int, seeds: int, of_people: float, of_seeds: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    who = rng.normal(0.5, of_people, people)
    labels = label(CELL)
    return pd.DataFrame(
        [
            labels
            | {"identity": f"{i}", "seed": f"{s}", "prompt": "photo", "image": "00"}
            | {METRIC: who[i] + rng.normal(0, of_seeds)}
            for i in range(people)
            for s in range(seeds)
        ]
    )


def test_people_stay_the_unit_however_many_seeds(tmp_path: Path) -> None:
    once = tabulate(study(tmp_path / "once"), tmp_path / "once")
    twice = tabulate(repeated(tmp_path / "twice", 0.0), tmp_path / "twice")

    for name in ("summary", "contrasts"):
        ours, theirs = (
            getattr(tables, name).filter(regex="^relative|^fdfr") for tables in (twice, once)
        )
        numbers = [column for column in theirs if not column.endswith("_values")]
        pd.testing.assert_frame_equal(ours[numbers], theirs[numbers], atol=1e-12)
    assert set(twice.contrasts["relative_ism_n"]) == {2}


def test_a_persons_value_is_the_mean_over_seeds(tmp_path: Path) -> None:
    once = tabulate(study(tmp_path / "once"), tmp_path / "once")
    twice = tabulate(repeated(tmp_path / "twice", 0.1), tmp_path / "twice")

    gained = twice.identities["relative_ism"] - once.identities["relative_ism"]
    assert gained.to_numpy() == pytest.approx(0.05)
    assert "seed" not in twice.identities
    assert set(twice.images["seed"]) == {"0", "1"}


def test_one_persons_seeds_pair_sample_by_sample(tmp_path: Path) -> None:
    cells = [c for c in repeated(tmp_path, 0.1) if c.identity == "anna"]

    found = tabulate(cells, tmp_path).contrasts

    assert set(found["over"]) == {"images"}
    assert set(found["images"]) == {12}  # 2 seeds x 2 prompts x 3 samples


@pytest.mark.parametrize(("of_people", "of_seeds"), [(0.2, 0.05), (0.05, 0.2), (0.0, 0.1)])
def test_variance_is_told_apart(of_people: float, of_seeds: float) -> None:
    [row] = repeats(simulated(3000, 3, of_people, of_seeds)).to_dict("records")

    assert (row["n"], row["seeds"], row["metric"]) == (3000, 3, METRIC)
    assert row["sd_people"] == pytest.approx(of_people, abs=0.015)
    assert row["sd_seeds"] == pytest.approx(of_seeds, abs=0.005)
    share = of_seeds**2 / 3 / (of_people**2 + of_seeds**2 / 3)
    assert row["share"] == pytest.approx(share, abs=0.03)


def test_without_a_repeat_nothing_is_said_of_seeds(tmp_path: Path) -> None:
    assert repeats(simulated(5, 1, 0.1, 0.1)) is None
    tables = tabulate(study(tmp_path), tmp_path)
    write_tables("once", tables, tmp_path / "tables")
    assert not list((tmp_path / "tables").glob("seeds*"))


def test_one_person_has_no_spread_of_people() -> None:
    [row] = repeats(simulated(1, 3, 0.1, 0.1)).to_dict("records")
    assert row["sd_seeds"] > 0
    assert math.isnan(row["share"])
    assert math.isnan(row["sd_people"])


def test_the_table_of_seeds_is_for_people_too(tmp_path: Path) -> None:
    tables = tabulate(repeated(tmp_path, 0.1), tmp_path)

    write_tables("twice", tables, tmp_path / "tables")

    text = (tmp_path / "tables" / "seeds.md").read_text("utf-8")
    assert "SD of seeds" in text
    assert "0.0707" in text
    assert (tmp_path / "tables" / "seeds.tex").exists()
