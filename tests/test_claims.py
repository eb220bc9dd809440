"""Claims: what is registered, how it is decided, and how often a ledger is wrong."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY
from scipy.stats import wilcoxon
from test_report import pictures, show
from test_tables import study, tabulate
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.experiment.claims import Claim, Ledger, Measured, labels_of
from cloakbench.experiment.experiment import Experiment
from cloakbench.files.layout import Layout
from cloakbench.report import make_report
from cloakbench.report.evidence import exhibits
from cloakbench.tables import verdicts_so_far, write_tables
from cloakbench.tables.display import p_value, verdict_grid, verdicts_note
from cloakbench.tables.verdicts import people_needed, verdicts

NOTHING = pd.DataFrame()
SEEDS = {"0"}
OF: dict[str, Any] = {"family": "tests", "experiment": "mini", "people": 48}
ASPL, CDL, CODESR, BOTH = (
    *("aspl/none/dreambooth", "aspl/none/cdl", "aspl/codesr/dreambooth", "aspl/codesr/cdl"),
)


def claim(test: str, *cells: str, margin: float = 0, endpoint: str = "fdfr") -> Claim:
    told = {"claim": test, "source": "a test"}
    return Claim(**told, endpoint=endpoint, test=test, cells=cells, margin=margin)


def ledger(*claims: Claim, level: float = 0.05) -> Ledger:
    return Ledger(**OF, level=level, claims=[*claims])


def samples(**columns: Any) -> pd.DataFrame:
    """Rows of samples; columns are called by cells and hold a value per person."""
    rows = []
    for cell, values in columns["cells"].items():
        name, _, prompt = cell.partition("@")
        labels = dict(zip(("protection", "purification", "trainer"), name.split("/"), strict=False))
        told = {"prompt": prompt or "photo", "seed": "0"}
        for person, value in enumerate(values):
            rows += [
                {**labels, **told, "identity": f"p{person}", "fdfr": value + e}
                for e in (-0.01, 0.01)
            ]
    return pd.DataFrame(rows)


def people(mean: float, n: int = 12, seed: int = 0, sd: float = 0.05) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (noise - noise.mean()) / noise.std(ddof=1)


def verdict(tested: Claim, cells: dict[str, np.ndarray], level: float = 0.05) -> dict[str, Any]:
    made = verdicts(ledger(tested, level=level), samples(cells=cells), NOTHING, SEEDS)
    [row] = made.to_dict("records")
    return row


def test_what_is_higher_holds_and_its_opposite_is_contradicted() -> None:
    cells = {BOTH: people(0.6, seed=1), ASPL: people(0.2)}

    holds = verdict(claim("higher", BOTH, ASPL), cells)
    assert holds["verdict"] == "holds"
    assert holds["effect"] == pytest.approx(0.4)
    assert 0.3 < holds["low"] < 0.4 < holds["high"] < 0.5
    assert (holds["n"], holds["p"]) == (12, 2 / 2**12)
    assert math.isnan(holds["people"])
    assert verdict(claim("lower", BOTH, ASPL), cells)["verdict"] == "contradicted"
    assert verdict(claim("lower", ASPL, BOTH), cells)["verdict"] == "holds"


def test_what_is_undecided_says_how_many_people_would_decide_it() -> None:
    row = verdict(
        claim("higher", BOTH, ASPL), {BOTH: people(0.62, sd=0.1), ASPL: people(0.6, 12, 1)}
    )

    assert row["verdict"] == "undecided"
    assert 12 < row["people"] < 1000


def test_six_people_decide_nothing_at_one_percent() -> None:
    cells = {BOTH: people(0.9, 6), ASPL: people(0.1, 6, seed=1)}

    row = verdict(claim("higher", BOTH, ASPL), cells, level=0.01)

    assert (row["verdict"], row["p"], row["people"]) == ("undecided", 2 / 2**6, 8)


@pytest.mark.parametrize(
    ("test", "mean", "margin", "borders"),
    [("higher", 0.06, 0, (0.0,)), ("level", 0.0, 0.05, (-0.05, 0.05))],
)
def test_the_people_that_are_said_to_be_needed_decide_as_often_as_promised(
    test: str, mean: float, margin: float, borders: tuple[float, ...]
) -> None:
    """Of what is level they have to be on the right sides of both ends of the margin."""
    rng = np.random.default_rng(0)
    needed = int(people_needed([people(mean, 20, sd=0.1)], borders, 0.05))
    tested = ledger(claim(test, BOTH, ASPL, margin=margin))
    decided = []
    for _ in range(60):
        cells = {BOTH: rng.normal(mean, 0.1, needed), ASPL: np.zeros(needed)}
        decided += [*verdicts(tested, samples(cells=cells), NOTHING, SEEDS)["verdict"]]

    assert 0.8 <= np.mean([each == "holds" for each in decided]) <= 1


def test_one_of_many_that_contradicts_takes_the_people_of_its_correction() -> None:
    """Its p is multiplied by how many there were to choose from."""
    shared = people(0.5, 20, sd=0.2)
    alone = {BOTH: shared, ASPL: shared + people(0.08, 20, sd=0.1, seed=1)}
    others = dict.fromkeys((CDL, CODESR), shared - 0.2)

    one = verdict(claim("higher", BOTH, ASPL), alone, level=0.001)
    of_three = verdict(claim("higher", BOTH, ASPL, CDL, CODESR), alone | others, level=0.001)

    assert (one["verdict"], of_three["verdict"]) == ("undecided", "undecided")
    assert of_three["people"] > one["people"]


@pytest.mark.parametrize(
    ("apart", "expected"), [(0.0, "holds"), (0.2, "contradicted"), (0.07, "undecided")]
)
def test_level_with_is_decided_by_a_margin(apart: float, expected: str) -> None:
    cells = {BOTH: people(0.5 + apart, sd=0.03, seed=1), ASPL: people(0.5, sd=0.03)}

    assert verdict(claim("level", BOTH, ASPL, margin=0.08), cells)["verdict"] == expected


def test_a_claim_about_several_cells_is_one_about_the_least_favourable() -> None:
    cells = {BOTH: people(0.6), ASPL: people(0.2, seed=1), CDL: people(0.58, seed=2)}
    both = verdict(claim("higher", BOTH, ASPL, CDL), cells)
    alone = verdict(claim("higher", BOTH, CDL), cells)

    assert both["verdict"] == "undecided"
    assert (both["effect"], both["p"]) == (alone["effect"], alone["p"])
    cells[CDL] = people(0.9, seed=2)
    assert verdict(claim("higher", BOTH, ASPL, CDL), cells)["verdict"] == "contradicted"


def test_of_comparisons_that_are_as_sure_the_one_with_the_least_effect_is_shown() -> None:
    """Where all people agree on both, p are the same."""
    cells = {BOTH: people(0.6), ASPL: people(0.2, seed=1), CDL: people(0.3, seed=2)}

    for order in ((ASPL, CDL), (CDL, ASPL)):
        row = verdict(claim("higher", BOTH, *order), cells)
        assert (row["p"], row["effect"]) == (2 / 2**12, pytest.approx(0.3))
    cells[BOTH] = people(0.1)
    assert verdict(claim("lower", BOTH, CDL, ASPL), cells)["effect"] == pytest.approx(-0.1)


def test_a_claim_of_several_comparisons_takes_more_people_than_one_of_them() -> None:
    alike = [people(0.06, 20, seed, sd=0.1) for seed in range(5)]

    alone = max(people_needed([each], (0.0,), 0.01) for each in alike)

    assert people_needed(alike, (0.0,), 0.01) > alone


def test_a_trend_is_not_an_order() -> None:
    """One large step is enough for a trend, though another one falls; the tables say so."""
    means = {ASPL: 0.1, CDL: 0.1, CODESR: 0.6, BOTH: 0.5}
    cells = {name: people(mean, 12, k) for k, (name, mean) in enumerate(means.items())}

    assert verdict(claim("trend", *cells), cells)["verdict"] == "holds"
    assert verdict(claim("higher", BOTH, CODESR), cells)["verdict"] == "contradicted"
    trend = ledger(claim("trend", *cells), level=0.02)
    told = verdicts(trend, samples(cells=cells), NOTHING, SEEDS)
    assert "single steps may be level or fall), is at most 0.02 " in verdicts_note(told)
    assert "a confidence of 98 %" in verdicts_note(told)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0104, "0.011"), (0.01, "0.01"), (0.0504, "0.051"), (2 / 2**12, "0.00049"), (1.0, "1"),
     (0.999, "1"), (math.nan, "\N{EN DASH}")],
)  # fmt: skip
def test_no_p_is_shown_below_a_level_that_it_misses(p: float, text: str) -> None:
    assert p_value(p) == text


def test_a_trend_is_decided_by_pages_test() -> None:
    cells = {name: people(0.1 * k, 8, k) for k, name in enumerate((ASPL, CDL, CODESR, BOTH))}

    assert verdict(claim("trend", *cells), cells)["verdict"] == "holds"
    assert verdict(claim("trend", *[*cells][::-1]), cells)["verdict"] == "contradicted"
    level = {name: people(0.1, 8, k) for k, name in enumerate(cells)}
    row = verdict(claim("trend", *cells), level)
    assert row["verdict"] == "undecided"
    assert row["people"] > 8


@pytest.mark.parametrize(
    ("name", "trainer", "prompt"),
    [("dreambooth@50", "dreambooth@50", None), ("dreambooth@50@class", "dreambooth@50", "class"),
     ("dreambooth@5star", "dreambooth", "5star")],
)  # fmt: skip
def test_a_claim_can_be_on_a_snapshot_and_on_its_prompt(name, trainer, prompt) -> None:
    labels = labels_of(f"aspl/none/{name}")

    assert (labels["trainer"], labels.get("prompt")) == (trainer, prompt)


def test_prompts_and_photos_can_be_compared() -> None:
    prompts = {f"{ASPL}@identifier": people(0.9), f"{ASPL}@class": people(0.1, seed=1)}
    photos = {"aspl/none": people(0.9), "clean/none": people(0.1, seed=1)}
    told = ledger(claim("higher", *prompts), claim("higher", *photos))

    made = verdicts(told, samples(cells=prompts), samples(cells=photos), SEEDS)

    assert made["verdict"].tolist() == ["holds", "holds"]


def test_people_without_a_value_are_left_out() -> None:
    cells = {BOTH: people(0.6, 9), ASPL: people(0.2, 9, seed=1)}
    cells[ASPL][0] = math.nan

    assert verdict(claim("higher", BOTH, ASPL), cells)["n"] == 8


def test_people_count_when_all_their_seeds_have_run_in_all_cells() -> None:
    """Until then a mean of one seed would be compared with one of several."""
    first, second = (
        samples(cells={BOTH: people(0.6, 9, k), ASPL: people(0.2, 9, k + 9)}).assign(seed=str(k))
        for k in range(2)
    )
    late = second[(second["identity"] != "p0") | (second["trainer"] != "cdl")]

    [part], [whole] = (
        verdicts(ledger(claim("higher", BOTH, ASPL)), table, NOTHING, {"0", "1"}).to_dict("records")
        for table in (pd.concat([first, late]), pd.concat([first, second]))
    )

    assert (part["n"], whole["n"]) == (8, 9)
    assert whole["effect"] == pytest.approx(0.4)


def test_a_claim_on_photos_weighs_them_as_the_table_of_photos_does() -> None:
    """PSNR is of the photos that changed, and of L-infinity the largest counts."""
    photos = samples(cells={"aspl/none": people(0.9, 8), "aspl/codesr": people(0.1, 8, seed=1)})
    photos = photos.assign(psnr=30.0, linf=11)
    photos.loc[photos.index[::2], ["psnr", "linf"]] = math.inf, 5
    photos.loc[photos["purification"] == "codesr", "psnr"] += 2
    on = [claim("higher", "aspl/codesr", "aspl/none", endpoint=name) for name in ("psnr", "linf")]

    psnr, linf = verdicts(ledger(*on), NOTHING, photos, SEEDS).to_dict("records")

    assert (psnr["n"], psnr["effect"], psnr["verdict"]) == (8, 2, "holds")
    assert (linf["n"], linf["effect"]) == (8, 0)


def test_claims_that_have_not_run_count_in_the_family() -> None:
    cells = {BOTH: people(0.6, 8), ASPL: people(0.2, 8, seed=1)}
    alone = ledger(claim("higher", BOTH, ASPL))
    more = ledger(*alone.claims, *[claim("higher", BOTH, CDL, endpoint=m) for m in ("ism", "sds")])
    table = samples(cells=cells).assign(ism=0.0, sds=0.0)

    first, *missing = verdicts(more, table, NOTHING, SEEDS).to_dict("records")

    assert first["p"] == verdicts(alone, table, NOTHING, SEEDS)["p"][0]
    assert first["p_holm"] == 3 * first["p"]
    assert all((row["verdict"], row["n"]) == ("undecided", 0) for row in missing)


def test_a_ledger_without_effects_is_wrong_no_more_often_than_it_says() -> None:
    """Claims of each kind among eight people at 20 %, 80 times; what is level is at its margin."""
    rng = np.random.default_rng(0)
    apart = "clean/none/dreambooth"
    told = ledger(
        *(claim("higher", name, ASPL) for name in (CDL, CODESR)),
        claim("lower", BOTH, ASPL),
        claim("level", apart, ASPL, margin=0.1),
        claim("trend", ASPL, CDL, CODESR, BOTH),
        level=0.2,
    )
    wrong = 0
    for _ in range(80):
        cells = {name: rng.normal(0.5, 0.1, 8) for name in (ASPL, CDL, CODESR, BOTH)}
        cells[apart] = rng.normal(0.6, 0.1, 8)
        wrong += any(verdicts(told, samples(cells=cells), NOTHING, SEEDS)["verdict"] != "undecided")

    assert 0 < wrong / 80 <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 80)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("claims*.yaml")), ids=str)
def test_what_is_registered_can_be_decided_by_its_experiment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    experiment = Experiment.load(Path("config.yaml"), path)

    assert experiment.claims is not None
    assert len(experiment.claims.claims) >= 2


CELLS = ["aspl/none/cdl", "aspl/none/dreambooth"]
GOOD = {"claim": "a", "source": "b", "endpoint": "fdfr", "test": "higher", "cells": CELLS}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"cells": ["aspl/none/cld", CELLS[1]]},
            "no 'aspl/none/cld': did you mean 'aspl/none/cdl'",
        ),
        ({"cells": [f"{CELLS[0]}@foto", CELLS[1]]}, "no 'foto': did you mean 'photo'"),
        ({"endpoint": "fdrf"}, "no 'fdrf': did you mean 'fdfr'"),
        ({"cells": ["aspl/none", "clean/none"]}, "has no 'fdfr'"),
        ({"cells": ["aspl/none", CELLS[0]]}, "cells are compared with others of their kind"),
        ({"test": "level"}, "a margin is for the test 'level'"),
        ({"test": "trend"}, "a trend needs three cells"),
        ({"test": "above"}, "claims.0.test = 'above'"),
        ({"direction": "higher"}, "unknown setting 'claims.0.direction'"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused_before_the_run(
    changes: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(OF | {"claims": [GOOD | changes]}))
    config = yaml.safe_load(Path("config.yaml").read_text()) | {"claims": str(path)}

    with pytest.raises(CloakBenchError) as error:
        Experiment.parse(config)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_metric_of_sets_has_no_value_of_one_prompt() -> None:
    asked = ledger(claim("higher", f"{BOTH}@photo", ASPL, endpoint="kid"))

    with pytest.raises(CloakBenchError, match=r"samples of all prompts\. Leave out '@photo'\."):
        asked.check("mini", Measured({BOTH, ASPL}, {"kid"}), Measured((), ()), ["photo"])


def test_claims_are_decided_by_the_experiment_that_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(OF | {"experiment": "another", "claims": [GOOD]}))
    config = yaml.safe_load(Path("config.yaml").read_text()) | {"claims": str(path)}

    with pytest.raises(CloakBenchError, match="by experiment 'another', and this is 'mini'"):
        Experiment.parse(config)


def test_a_verdict_has_all_that_was_registered_and_wilcoxons_p_beside_it() -> None:
    cells = {BOTH: people(0.6), ASPL: people(0.55, seed=1)}
    both = ledger(claim("higher", BOTH, ASPL), claim("level", BOTH, ASPL, margin=0.08))

    made = verdicts(both, samples(cells=cells), NOTHING, SEEDS)

    first, second = made.to_dict("records")
    assert (first["family"], first["experiment"], first["planned"]) == ("tests", "mini", 48)
    assert first["p_wilcoxon"] == pytest.approx(wilcoxon(cells[BOTH] - cells[ASPL]).pvalue)
    assert math.isnan(second["p_wilcoxon"])
    grid = verdict_grid(made)
    tests = [row[grid.headings.index("test")].text for row in grid.rows]
    assert tests == ["higher", "level within 8%"]


@pytest.fixture
def told() -> Ledger:
    cells = ("aspl/none/dreambooth", "clean/none/dreambooth", "noise/none/dreambooth")
    return ledger(claim("higher", *cells), claim("lower", *cells, endpoint="relative_ism"))


def test_verdicts_are_a_table_of_the_experiment_and_first_in_its_report(
    told: Ledger, tmp_path: Path
) -> None:
    names = tuple("abcdefgh")
    cells = study(tmp_path, names)
    made = tabulate(cells, tmp_path)._replace(
        verdicts=verdicts_so_far(told, cells, Layout(tmp_path))
    )
    write_tables("demo", made, tmp_path / "tables")

    text = (tmp_path / "tables" / "verdicts.md").read_text("utf-8")
    assert "| higher | a test | holds | FDFR | higher | +33% " in text
    assert "| 8 of 48 |" in text
    read = pd.read_csv(tmp_path / "tables" / "verdicts.csv")
    assert read["verdict"].tolist() == ["holds", "holds"]
    methods: dict[str, Any] = {"protection": {}, "purification": {}, "trainer": {}}
    page = make_report("demo", [], Layout(tmp_path), made, methods).read_text("utf-8")
    assert "Of 2 claims 2 hold." in page
    assert "registered before the run, at a level of 0.05 for all of them together" in page
    assert page.index("which was not registered") > page.index(">lower: ")
    assert 0 < page.index('<p>higher: <span class="word holds">') < page.index(">Scores</h2>")


def test_each_claim_is_shown_by_the_person_who_is_nearest_to_its_effect(tmp_path: Path) -> None:
    layout, cells = Layout(tmp_path), study(tmp_path, ("anna", "bert", "cleo"))
    show(cells, layout)
    for cell in cells:
        pictures(layout.purified(cell), 1)
    claims = ledger(
        claim("lower", ASPL, "clean/none/dreambooth", endpoint="relative_ism"),
        claim("lower", f"{ASPL}@portrait", f"{ASPL}@photo", endpoint="relative_ism"),
        claim("higher", "aspl/none", "clean/none", endpoint="linf"),
    )
    found = verdicts_so_far(claims, cells, layout)

    of_cells, of_prompts, of_photos = exhibits(cells, layout, found.assign(person="cleo"))

    assert [shown.words for shown in of_cells] == [
        f"{ASPL}, sample 1",
        "clean/none/dreambooth, sample 1",
    ]
    assert [shown.key for shown in of_prompts] == ["sample:portrait 00", "sample:photo 00"]
    assert [shown.words for shown in of_photos] == ["aspl/none, photo 1", "clean/none, photo 1"]
    assert set(found["person"]) <= {"anna", "bert", "cleo"}


def test_the_person_who_shows_a_claim_is_no_extreme() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.9])

    row = verdict(claim("higher", BOTH, ASPL), {BOTH: values, ASPL: np.zeros(6)})

    assert row["effect"] == pytest.approx(1.9 / 6)
    assert row["person"] == "p3"
    assert row["cells"] == f"{BOTH}; {ASPL}"


def test_a_claim_that_has_not_run_has_no_pictures(told: Ledger, tmp_path: Path) -> None:
    found = verdicts_so_far(told, [], Layout(tmp_path))

    assert exhibits([], Layout(tmp_path), found) == [[], []]


def test_claims_are_decided_by_the_cells_that_are_there(told: Ledger, tmp_path: Path) -> None:
    cells = study(tmp_path, tuple("abcdefgh"))
    for cell in cells:
        if cell.protection == "noise":
            Layout(tmp_path).scores(cell).unlink()

    assert set(verdicts_so_far(told, cells, Layout(tmp_path))["n"]) == {0}
    assert set(verdicts_so_far(told, cells, Layout(tmp_path / "nothing"))["n"]) == {0}


def test_machines_get_every_claim_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    files = ["config.yaml", "config/claims.yaml", results_in(tmp_path)]

    run = CliRunner().invoke(app, ["claims", *files, "--json"])

    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    keys = {
        "family",
        "experiment",
        "test",
        "margin",
        "claim",
        "source",
        "verdict",
        "endpoint",
        "n",
        "effect",
        "low",
        "high",
        "p",
        "p_holm",
    }
    assert len(found) == len(Ledger.read(Path("claims/paper.yaml")).claims)
    assert all(keys <= row.keys() and row["verdict"] == "undecided" for row in found)


def test_published_scores_decide_claims_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    here = tmp_path / "results.yaml"
    here.write_text(yaml.safe_dump({"results": str(tmp_path / "results")}))
    files = ["config.yaml", "config/claims-adaptive.yaml", str(here)]

    run = CliRunner().invoke(app, ["claims", *files, "--pool", "docs/claims-adaptive", "--json"])

    assert run.exit_code == 0, run.output
    page = Path("docs/claims-adaptive/verdicts.md").read_text("utf-8")
    for row in json.loads(run.stdout):
        assert f"| {row['claim']} | {row['source']} | {row['verdict']} |" in page
        assert row["n"] == 12
        assert row["p"] > 0


def results_in(folder: Path) -> str:
    """A config that has one person's results in a folder of its own."""
    path = folder / "results.yaml"
    told = {"results": str(folder / "results"), "identities": ["person_000003"]}
    path.write_text(yaml.safe_dump(told))
    return str(path)


def test_what_is_missing_is_run_before_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    ran: list[list[str]] = []
    failing: list[int] = [0]

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        ran.append(command)
        return subprocess.CompletedProcess(command, failing[0])

    monkeypatch.setattr("cloakbench.cli.experiment.subprocess.run", run)
    files = ["config.yaml", "config/claims.yaml", results_in(tmp_path)]

    made = CliRunner().invoke(app, ["claims", *files])
    assert "undecided" in made.stdout
    assert "claims: 13 of 13 cells are to be trained and scored" in made.stderr
    assert [command[1:] for command in ran] == [["-m", "snakemake", "--configfile", *files]]
    assert "undecided" in CliRunner().invoke(app, ["claims", *files, "--so-far"]).stdout
    assert len(ran) == 1
    failing[0] = 1
    stopped = CliRunner().invoke(app, ["claims", *files])
    assert isinstance(stopped.exception, CloakBenchError)
    assert stopped.stdout == ""
