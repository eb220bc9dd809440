"""Protections that adapt: who is whose plain counterpart, and what to expect of either."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.experiment.config import load
from cloakbench.experiment.experiment import Experiment
from cloakbench.tables import expected_means, write_expected

DEFAULT = REPOSITORY / "config.yaml"
ADAPTED = {"aspl-codesr": "aspl"}


def samples(**scores: dict[str, float]) -> pd.DataFrame:
    """Two samples of each person, by protection and person."""
    cell = {"model": "m", "dataset": "d", "seed": "0", "purification": "codesr", "trainer": "cdl"}
    return pd.DataFrame(
        [
            {**cell, "protection": name.replace("_", "-"), "identity": person, "image": image}
            | {"prompt": "photo", "face": 1, "relative_ims": score}
            for name, people in scores.items()
            for person, score in people.items()
            for image in ("00", "01")
        ]
    )


def test_the_papers_expected_mean_follows_from_its_two_scores():
    """0.385 if the protection does not adapt, 0.023 if it does: 0.204 if either is as likely."""
    images = samples(
        aspl={"anna": 0.375, "bert": 0.395}, aspl_codesr={"anna": 0.013, "bert": 0.033}
    )

    found = expected_means(images, ADAPTED, [0.5]).set_index("probability")

    assert found["relative_ims"].round(3).to_dict() == {"0": 0.385, "0.5": 0.204, "1": 0.023}
    assert set(found["protection"]) == {"aspl-codesr"}
    assert set(found["baseline"]) == {"aspl"}


def test_people_who_were_not_adapted_to_are_in_no_expected_mean():
    images = samples(aspl={"anna": 0.4, "bert": 0.2, "cleo": 0.9}, aspl_codesr={"anna": 0.0})

    found = expected_means(images, ADAPTED, [])

    assert found["relative_ims"].tolist() == [pytest.approx(0.4), pytest.approx(0.0)]
    assert expected_means(images, {}, [0.5]).empty


def test_what_is_sure_has_the_interval_of_its_own_cell():
    """At a probability of 0 or 1 the other cell has no part in the mean, and none in its bounds."""
    names = "abcdefgh"
    plain = {name: 0.4 + 0.01 * k for k, name in enumerate(names)}
    images = samples(aspl=plain, aspl_codesr=dict.fromkeys(names, 0.1))

    found = expected_means(images, ADAPTED, [0.5]).set_index("probability")

    ends = found[["relative_ims_low", "relative_ims_high"]]
    assert ends.loc["0", "relative_ims_low"] < 0.435 < ends.loc["0", "relative_ims_high"] < 0.5
    assert ends.notna().loc[["0", "0.5"]].all(axis=None)


def test_what_has_no_part_in_a_mean_leaves_nobody_out():
    """A person without a face in the one cell has all faces in the other."""
    plain = {"anna": 0.4, "bert": 0.2}
    images = samples(aspl=plain, aspl_codesr={"anna": 0.1, "bert": math.nan})

    found = expected_means(images, ADAPTED, [0.5]).set_index("probability")["relative_ims"]

    assert found["0"] == pytest.approx(0.3)
    assert found["1"] == pytest.approx(0.1)


def test_what_to_expect_is_a_table_beside_the_others(tmp_path: Path):
    images = samples(aspl={"anna": 0.4, "bert": 0.2}, aspl_codesr={"anna": 0.0, "bert": 0.0})

    write_expected("mine", expected_means(images, ADAPTED, [0.5]), tmp_path)

    text = (tmp_path / "expected.md").read_text("utf-8")
    assert "# mine, protections that may adapt" in text
    assert "| 0.5 | 2 | 0.150 (0.200, 0.100) |" in text
    assert pd.read_csv(tmp_path / "expected.csv")["probability"].tolist() == [0.0, 0.5, 1.0]


def test_the_plain_counterpart_has_the_same_method_budget_and_model():
    data = load([DEFAULT, REPOSITORY / "config" / "adaptive.yaml"])
    strong = {"name": "pid-jpeg", "method": "pid", "budget": "4/255", "through": ["jpeg"]}

    adapted = Experiment.parse(data | {"protections": ["pid", strong]}).adapted
    paper = Experiment.parse(data).adapted
    known = data["models"] | {"second": {"path": "resources/second", "resolution": 128}}
    elsewhere = {"name": "aspl-second", "method": "aspl", "model": "second"}
    jpeg = {"name": "aspl-jpeg", "method": "aspl", "through": ["jpeg"]}
    changed = {"models": known, "protections": [elsewhere, jpeg]}

    assert adapted == {}
    assert Experiment.parse(data | changed).adapted == {}
    assert paper["aspl-codesr"] == "aspl"
    assert paper["advdm-cdl-16"] == "advdm-16"
    assert {label.partition("-")[0] for label in paper} == {"aspl", "advdm"}


def test_published_scores_say_what_to_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    here = tmp_path / "results.yaml"
    here.write_text(f"results: {tmp_path}")
    files = [str(DEFAULT), "config/claims-adaptive.yaml", str(here)]

    run = CliRunner().invoke(app, ["adaptive", *files, "--pool", "docs/claims-adaptive", "--json"])

    assert run.exit_code == 0, run.output
    told = [row for row in json.loads(run.stdout) if row["purification"] == "codesr"]
    assert {row["probability"] for row in told} == {"0", "0.5", "1"}
    assert {row["identities"] for row in told} == {12}


def test_a_config_in_which_nobody_adapts_is_told_so():
    run = CliRunner().invoke(app, ["adaptive", str(DEFAULT)])

    assert run.exit_code == 1
    assert "no protection looks through anything" in str(run.exception)
