"""Tables: the way from images to cells, what these are compared with, and what the files say."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell, Controls, Layout, label
from cloakbench.files.text import write_scores
from cloakbench.files.verified import seal
from cloakbench.tables import (
    Tables,
    make_tables,
    purifier_costs,
    records,
    write_purifiers,
    write_tables,
)
from cloakbench.tables.collect import read_scores
from cloakbench.tables.display import Grid, Value, difference_grid, number
from cloakbench.tables.estimates import total
from cloakbench.tables.latex import PACKAGES, latex
from cloakbench.tables.markdown import markdown, summary_text
from cloakbench.tables.measures import best
from cloakbench.tables.summary import by_cell, contrasts, paired, photo_summary

PROTECTIONS = ("clean", "noise", "aspl")
BUDGETS = {"clean": 0, "noise": 11, "aspl": 11}
STEPS = {"aspl": 0.5}
MADE = {"stage": "test"}  # what a manifest says besides digests
BASE = {"clean": 0.8, "noise": 0.75, "aspl": 0.3}


def study(root: Path, identities: tuple[str, ...] = ("anna", "bert")) -> list[Cell]:
    """Score files of a small study: scores fall with the protection and the second identity."""
    cells = [
        Cell("mini", "synthetic", identity, "0", protection, "none", trainer)
        for identity, protection, trainer in itertools.product(
            identities, PROTECTIONS, ("dreambooth", "cdl")
        )
    ]
    for cell in cells:
        write_scores(_scores(cell), Layout(root).scores(cell), MADE)
        write_scores(_distances(cell), Layout(root).distances(cell), MADE)
    return cells


def tabulate(cells: list[Cell], root: Path, **budgets: int) -> Tables:
    controls = Controls(("clean", "noise"), ("none",), ("dreambooth",))
    return make_tables(cells, Layout(root), controls, {**BUDGETS, **budgets}, STEPS)


def _scores(cell: Cell) -> pd.DataFrame:
    rows = []
    for prompt, image in itertools.product(("photo", "portrait"), range(3)):
        seen = not (cell.protection == "aspl" and image == 2)
        value = BASE[cell.protection] - 0.1 * (cell.identity == "bert") + 0.01 * image
        rows.append(
            {
                **label(cell),
                "prompt": prompt,
                "image": f"{image:02d}",
                "face": int(seen),
                "faces": int(seen),
                "fdfr": float(not seen),
                "relative_ism": value if seen else math.nan,
                "identified": float(seen),
            }
        )
    return pd.DataFrame(rows)


def _distances(cell: Cell) -> pd.DataFrame:
    far = 0 if cell.protection == "clean" else 11
    psnr = math.inf if far == 0 else 30.0
    rows = [
        {**label(cell, PHOTO_LABELS), "photo": f"{i:02d}", "linf": far - i * (far > 0)}
        | {"psnr": psnr, "ssim": 1 - far / 100, "brisque": 20.0 + far + i}
        for i in range(2)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def made(tmp_path: Path):
    return tabulate(study(tmp_path), tmp_path)


def row(frame: pd.DataFrame, **labels: str) -> dict:
    [found] = frame[(frame[list(labels)] == pd.Series(labels)).all(axis=1)].to_dict("records")
    return found


def test_identities_average_the_images_that_have_a_value(made) -> None:
    found = row(made.identities, identity="bert", protection="aspl", trainer="cdl")

    assert (found["images"], found["faces"]) == (6, 4)
    assert found["relative_ism"] == pytest.approx(0.2 + 0.005)
    assert found["fdfr"] == pytest.approx(1 / 3)


def test_the_summary_averages_identities_and_shows_the_values_of_few(made) -> None:
    found = row(made.summary, protection="aspl", trainer="cdl")

    assert (found["over"], found["identities"], found["images"]) == ("identities", 2, 12)
    assert found["relative_ism"] == pytest.approx((0.305 + 0.205) / 2)
    assert found["relative_ism_values"] == "0.305 0.205"
    assert math.isnan(found["relative_ism_low"])
    assert found["relative_ism_n"] == 2


def test_five_identities_have_an_interval(tmp_path: Path) -> None:
    cells = study(tmp_path, identities=("anna", "bert", "cleo", "dora", "emil"))

    found = row(tabulate(cells, tmp_path).summary, protection="aspl", trainer="cdl")

    assert found["relative_ism_low"] < found["relative_ism"] < found["relative_ism_high"]
    assert found["relative_ism_values"] == ""


def test_rows_keep_the_order_of_the_cells(made) -> None:
    assert made.summary["protection"].unique().tolist() == list(PROTECTIONS)


def test_with_one_identity_means_are_over_images_and_nothing_is_tested(tmp_path: Path) -> None:
    cells = study(tmp_path, identities=("anna",))
    made = tabulate(cells, tmp_path)

    found = row(made.summary, protection="aspl", trainer="cdl")
    assert (found["over"], found["relative_ism_n"]) == ("images", 4)
    assert row(made.summary, protection="clean", trainer="cdl")["relative_ism_low"] < 0.81
    assert made.contrasts["over"].eq("images").all()
    assert made.contrasts["relative_ism_p"].isna().all(), "images of one person are no people"


def test_contrasts_are_paired_so_that_identities_do_not_blur_them(made) -> None:
    found = row(made.contrasts, protection="aspl", baseline="clean", trainer="dreambooth")

    assert found["relative_ism"] == pytest.approx(0.305 - 0.81)
    assert not found["relative_ism_high"] - found["relative_ism_low"] > 1e-9
    assert found["fdfr"] == pytest.approx(1 / 3)


def test_every_cell_is_compared_with_the_controls_of_each_of_its_methods(made) -> None:
    compared = made.contrasts[["protection", "trainer", "baseline"]].itertuples(index=False)

    assert set(map(tuple, compared)) == {
        *(("noise", trainer, "clean") for trainer in ("dreambooth", "cdl")),
        *(("aspl", trainer, "clean") for trainer in ("dreambooth", "cdl")),
        *(("aspl", trainer, "noise") for trainer in ("dreambooth", "cdl")),
        *((protection, "cdl", "dreambooth") for protection in PROTECTIONS),
        *((protection, "cdl", "clean + dreambooth") for protection in ("noise", "aspl")),
        *((protection, "cdl", "clean × dreambooth") for protection in ("noise", "aspl")),
    }


def test_purified_cdl_is_compared_with_each_half_and_with_what_undefended_photos_give(
    tmp_path: Path,
) -> None:
    cells = [replace(cell, purification=p) for cell in study(tmp_path) for p in ("none", "codesr")]
    for cell in cells:
        write_scores(_scores(cell), Layout(tmp_path).scores(cell), MADE)
        write_scores(_distances(cell), Layout(tmp_path).distances(cell), MADE)

    contrasts = tabulate(cells, tmp_path).contrasts

    defended = contrasts[
        (contrasts[["protection", "purification", "trainer"]] == ["aspl", "codesr", "cdl"]).all(
            axis=1
        )
    ]
    assert defended["baseline"].tolist() == [
        *("clean", "noise", "none", "dreambooth", "none + dreambooth", "clean + none + dreambooth"),
        *("clean × none", "clean × dreambooth", "none × dreambooth"),
    ]


def test_a_difference_of_differences_says_where_cdl_changes_more(made) -> None:
    frame = made.images.astype({"fdfr": float})
    defended = (frame["protection"] == "aspl") & (frame["trainer"] == "cdl")
    frame.loc[defended, "fdfr"] = 0.25

    controls = Controls(("clean", "noise"), ("none",), ("dreambooth",))
    made = contrasts(frame, controls, BUDGETS)

    found = row(made, protection="aspl", baseline="clean × dreambooth")
    assert found["fdfr"] == pytest.approx((0.25 - 1 / 3) - (0 - 0))
    assert row(made, protection="aspl", baseline="clean + dreambooth")["fdfr"] == 0.25


def test_every_difference_has_n_and_p_and_p_after_holm(tmp_path: Path) -> None:
    cells = study(tmp_path, identities=tuple("abcdef"))
    made = tabulate(cells, tmp_path)
    write_tables("demo", made, tmp_path)

    found = row(made.contrasts, protection="aspl", baseline="clean", trainer="cdl")
    assert (found["identities"], found["relative_ism_n"]) == (6, 6)
    assert found["relative_ism_p"] == found["relative_ism_wilcoxon"] == 2 / 2**6
    assert found["relative_ism_holm"] == pytest.approx(len(made.contrasts) * 2 / 2**6)
    text = (tmp_path / "contrasts.md").read_text("utf-8")
    assert "p=0.032, 0.41 by Holm" in text
    assert "| identities |" in text


def test_the_base_model_is_every_cells_floor(tmp_path: Path) -> None:
    cells = study(tmp_path)
    floor = [replace(cells[0], identity=name, trainer="none") for name in ("anna", "bert")]
    for cell in floor:
        write_scores(_scores(cell), Layout(tmp_path).scores(cell), MADE)
    controls = Controls(("clean", "noise"), ("none",), ("dreambooth",), ("none",))

    made = make_tables([*cells, *floor], Layout(tmp_path), controls, BUDGETS, STEPS).contrasts

    compared = made[made["baseline"] == "none (floor)"]
    assert len(compared) == len(PROTECTIONS) * 2
    assert row(compared, protection="aspl", trainer="cdl")["relative_ism"] == pytest.approx(-0.505)
    assert "none" not in set(made["trainer"]), "the floor is compared with nothing"


def test_budgets_are_in_the_summary_and_where_they_differ_in_the_comparison(tmp_path: Path) -> None:
    tables = tabulate(study(tmp_path), tmp_path, aspl=16)

    assert row(tables.summary, protection="aspl", trainer="cdl")["budget"] == "16/255"
    baselines = tables.contrasts.query("protection == 'aspl' and trainer == 'cdl'")["baseline"]
    assert {"clean", "noise, 11/255", "dreambooth"} < set(baselines)


def test_differences_carry_their_signs(made) -> None:
    texts = {str(value) for line in difference_grid(made.contrasts).rows for value in line}

    assert any(text.startswith("+33% (+33%, +33%)") for text in texts)
    assert any(text.startswith("\N{MINUS SIGN}0.505") for text in texts)


def test_a_missing_score_file_is_named(tmp_path: Path) -> None:
    cells = study(tmp_path)
    Layout(tmp_path).scores(cells[3]).unlink()

    with pytest.raises(CloakBenchError, match=r"dreambooth.csv|cdl.csv: no such file.*score"):
        tabulate(cells, tmp_path)


def test_scores_of_another_cell_are_refused(tmp_path: Path) -> None:
    cells, layout = study(tmp_path), Layout(tmp_path)
    layout.scores(cells[0]).write_bytes(layout.scores(cells[1]).read_bytes())
    seal(layout.scores(cells[0]), MADE)

    with pytest.raises(CloakBenchError, match=r"trainer should be 'dreambooth' .* found cdl"):
        tabulate(cells, tmp_path)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_a_damaged_score_file_is_named(tmp_path: Path, content: str) -> None:
    cells, layout = study(tmp_path), Layout(tmp_path)
    layout.scores(cells[0]).write_text(content)

    with pytest.raises(CloakBenchError, match=r"dreambooth\.csv: "):
        tabulate(cells, tmp_path)


def test_an_experiment_without_cells_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CloakBenchError, match="no cells"):
        tabulate([], tmp_path)


def test_machines_get_numbers_as_they_are_and_nothing_for_those_that_are_none() -> None:
    frame = pd.DataFrame(
        {"p": [7.2e-15, math.nan, math.inf], "n": [48, 8, 0], "of": ["é", "", "b"]}
    )

    told = json.loads(json.dumps(records(frame), allow_nan=False))

    assert [row["p"] for row in told] == [7.2e-15, None, None]
    assert [(row["n"], row["of"]) for row in told] == [(48, "é"), (8, ""), (0, "b")]


def test_names_that_look_like_numbers_or_gaps_stay_names(tmp_path: Path) -> None:
    [cell, *_] = study(tmp_path, identities=("NA",))

    images = tabulate([cell], tmp_path).images

    assert images["identity"].unique().tolist() == ["NA"]
    assert images["image"].tolist()[:2] == ["00", "01"]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "'quoted'", "a=b", "-x|<b>"]


def test_no_cell_is_a_formula_and_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    cell = Cell("m", "d", "anna", "0", "aspl", "none", "cdl")
    made = pd.DataFrame([{**label(cell), "image": text, "ism": -0.5} for text in FORMULAS])
    write_scores(made, Layout(tmp_path).scores(cell), MADE)

    written = pd.read_csv(Layout(tmp_path).scores(cell), dtype=str)
    assert not written["image"].str.match(r"[=+\-@\t\r]").any()
    assert set(written["ism"]) == {"-0.5"}
    pd.testing.assert_frame_equal(read_scores([cell], Layout(tmp_path)), made)


def test_markdown_shows_text_as_text() -> None:
    grid = Grid(["a|b"], [[Value("<img src=x>&"), Value("two\nlines", "[1|2]")]], {"model": "<m>"})

    assert markdown("<script>", grid, "plain > remark").splitlines() == [
        "# &lt;script&gt;",
        "",
        "For model &lt;m&gt;.",
        "",
        r"| a\|b |",
        "| --- |",
        r"| &lt;img src=x&gt;&amp; | two lines [1\|2] |",
        "",
        "plain > remark",
    ]


def test_the_files_hold_what_was_made(made, tmp_path: Path) -> None:
    write_tables("demo", made, tmp_path / "tables")

    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {
        *("images.csv", "identities.csv", "summary.csv", "contrasts.csv", "distances.csv"),
        *("photos.csv", "summary.md", "identities.md", "contrasts.md", "photos.md"),
        *("summary.tex", "identities.tex", "contrasts.tex", "photos.tex"),
        *("prompts.csv", "prompts.md", "prompts.tex", "summary.txt"),
    }
    read = pd.read_csv(tmp_path / "tables" / "summary.csv")
    assert read["relative_ism"].tolist() == pytest.approx(made.summary["relative_ism"].tolist())


def test_markdown_shows_percentages_arrows_intervals_and_shared_labels(
    made, tmp_path: Path
) -> None:
    write_tables("demo", made, tmp_path)
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")

    assert "For model mini, dataset synthetic, purification none." in summary
    assert "FDFR ↑" in summary
    assert "| 33% (33%, 33%) |" in summary
    assert "0.255 (0.305, 0.205)" in summary
    assert "| clean | \N{EN DASH} | 0 | ∞ | 1.000 | 20.5 |" in (tmp_path / "photos.md").read_text(
        encoding="utf-8"
    )


def test_latex_escapes_names_and_aligns_numbers() -> None:
    values = [Value("\N{MINUS SIGN}5%", "[0%, ∞] n=1"), Value("\N{EN DASH}"), Value("12%")]
    rows = [[Value(f"a&{n}"), Value("b_1"), value] for n, value in enumerate(values)]
    grid = Grid(["protection", "trainer", "FDFR ↑"], rows, {}, ["protection", "trainer", "fdfr"])

    table = latex("Mine & yours.", grid, "50 %\nfun", "mine", {(2, "fdfr")})

    assert r"\caption{Mine \& yours.}\label{tab:mine}" in table
    assert "% 50 % fun\n" in table, "a comment of one line"
    assert r"{@{}lS[table-format=+2.0]@{}}" in table
    assert r"protection & {FDFR [\%] $\uparrow$} \\*" in table
    assert r"a\&0 & -5 \\*" in table
    assert r"{\scriptsize b\_1} & {\scriptsize [0, $\infty$]} \\*" in table
    assert r" & {\scriptsize n=1} \\" in table
    assert r"a\&1 & {--} \\*" in table
    assert r"a\&2 & \bfseries 12 \\*" in table


def test_latex_tables_have_few_columns_or_those_that_are_chosen(made, tmp_path: Path) -> None:
    write_tables("demo", made, tmp_path / "few")
    write_tables("demo", made, tmp_path / "mine", ["identified", "brisque"])

    few, mine = ((tmp_path / name / "summary.tex").read_text("utf-8") for name in ("few", "mine"))
    assert "{relative ISM" in few
    assert "identified" not in few
    assert "{identified [" in mine
    assert "relative ISM $" not in mine
    assert few.count(r"\bfseries") == 2 + 2, "two trainers have the best of each column"
    assert "{BRISQUE}" in (tmp_path / "mine" / "photos.tex").read_text("utf-8")
    with pytest.raises(CloakBenchError, match="--latex: unknown metric 'fdrf': did you mean"):
        write_tables("demo", made, tmp_path, ["fdrf"])


def test_what_protects_nobody_is_not_bold(tmp_path: Path) -> None:
    """The base model is less like anybody than what any protection leaves."""
    cells = study(tmp_path)
    bare = [replace(cell, trainer="none") for cell in cells if cell.trainer == "cdl"]
    for cell in bare:
        scores = _scores(cell).assign(relative_ism=-0.5)
        write_scores(scores, Layout(tmp_path).scores(cell), MADE)
    controls = Controls(("clean", "noise"), ("none",), ("dreambooth",), ("none",))
    made = make_tables([*bare, *cells], Layout(tmp_path), controls, BUDGETS, STEPS)

    found = {(row, name) for row, name in best(made.summary, (), controls)}

    rows = made.summary.to_dict("records")
    assert {rows[row]["protection"] for row, _ in found} == {"aspl"}
    assert "none" not in {rows[row]["trainer"] for row, _ in found}


def test_differences_in_latex_have_n_and_p_after_holm(tmp_path: Path) -> None:
    made = tabulate(study(tmp_path, tuple("abcdef")), tmp_path)
    write_tables("mine", made, tmp_path / "tables", ["relative_ism"])

    table = (tmp_path / "tables" / "contrasts.tex").read_text("utf-8")

    assert "& {identities} & {relative ISM $\\downarrow$}" in table
    assert "& 6 & -0.505" in table
    holm = made.contrasts["relative_ism_holm"].dropna()
    shown = re.findall(r"p=([\d.]+) by Holm", table)
    assert [float(p) for p in shown] == pytest.approx(holm, rel=0.05)
    assert len(shown) > 5


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX to compile with")
def test_latex_compiles_and_fits_the_page(tmp_path: Path) -> None:
    names = tuple(f"person_{number:06d}" for number in range(8))
    write_tables("demo", tabulate(study(tmp_path, names), tmp_path), tmp_path / "tables")
    inputs = "".join(f"\\input{{{file.stem}}}" for file in (tmp_path / "tables").glob("*.tex"))
    text = f"\\documentclass{{article}}{PACKAGES}\\begin{{document}}{inputs}\\end{{document}}"
    (tmp_path / "tables" / "all.tex").write_text(text)
    for _ in range(2):  # longtable knows its widths the second time
        run = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
            cwd=tmp_path / "tables", capture_output=True, text=True, check=False,
        )  # fmt: skip
    if "siunitx.sty' not found" in run.stdout:
        pytest.skip("LaTeX has no siunitx here")

    assert run.returncode == 0, run.stdout[-2000:]
    assert "Overfull" not in run.stdout


def test_where_no_face_was_looked_for_their_number_is_unknown_not_zero(tmp_path: Path) -> None:
    cells = study(tmp_path)
    for cell in cells:
        path = Layout(tmp_path).scores(cell)
        scores = pd.read_csv(path, dtype={"image": str})[[*CELL_LABELS, "prompt", "image"]]
        write_scores(scores.assign(face=None, faces=None, brisque=30.0), path, MADE)
    made = tabulate(cells, tmp_path)
    write_tables("demo", made, tmp_path)

    assert made.summary["faces"].isna().all()
    assert "| \N{EN DASH} | 30.0 (30.0, 30.0) |" in (tmp_path / "summary.md").read_text("utf-8")


def test_prompts_have_rows_of_their_own_which_average_to_the_summary(tmp_path: Path) -> None:
    cells = study(tmp_path)
    for cell in cells:
        scores = _scores(cell).assign(kid=0.1)
        scores["identified"] = (scores["prompt"] == "photo").astype(float)
        write_scores(scores, Layout(tmp_path).scores(cell), MADE)
    made = tabulate(cells, tmp_path)

    assert made.prompts is not None
    assert [*made.prompts["prompt"]] == ["photo", "portrait"] * len(made.summary)
    found = [
        row(made.prompts, protection="aspl", trainer="cdl", prompt=prompt)["identified"]
        for prompt in ("photo", "portrait")
    ]
    assert found == [1, 0]
    assert row(made.summary, protection="aspl", trainer="cdl")["identified"] == 0.5
    assert "kid" in made.summary
    assert "kid" not in made.prompts, "it is of all samples"
    write_tables("demo", made, tmp_path / "tables")
    assert "| portrait |" in (tmp_path / "tables" / "prompts.md").read_text("utf-8")


def test_one_prompt_makes_no_table_of_prompts(tmp_path: Path) -> None:
    cells = study(tmp_path)
    for cell in cells:
        scores = _scores(cell)
        write_scores(scores[scores["prompt"] == "photo"], Layout(tmp_path).scores(cell), MADE)

    assert tabulate(cells, tmp_path).prompts is None


def test_distances_count_the_largest_change(made, tmp_path: Path) -> None:
    write_tables("demo", made, tmp_path)

    assert "| aspl | 50% | 11 | 30.0 | 0.890 | 31.5 |" in (tmp_path / "photos.md").read_text(
        "utf-8"
    )


def test_tables_tell_a_shortened_method_from_a_whole_one(made, tmp_path: Path) -> None:
    write_tables("demo", made, tmp_path)

    for name in ("summary", "photos"):
        assert set(made.frames[name].set_index("protection")["steps"].dropna().items()) == {
            ("aspl", 0.5)
        }
    shown = (tmp_path / "summary.md").read_text("utf-8")
    assert "| aspl | dreambooth | 11/255 | 50% |" in shown
    assert "| clean | dreambooth | 0/255 | \N{EN DASH} |" in shown


def test_psnr_is_of_the_photos_that_changed(made) -> None:
    frame = made.distances.copy()
    unchanged = frame.index[frame["protection"] == "aspl"][0]
    frame.loc[unchanged, "psnr"] = math.inf

    photos = photo_summary(frame, STEPS)

    assert row(photos, protection="aspl", purification="none")["psnr"] == 30.0
    assert row(photos, protection="clean", purification="none")["psnr"] == math.inf


def test_a_value_that_is_infinite_or_missing_everywhere_stays_so(made) -> None:
    frame = made.distances.assign(brisque=math.nan, lpips=math.inf)

    photos = photo_summary(frame, STEPS)

    assert photos["brisque"].isna().all()
    assert (photos["lpips"] == math.inf).all()


@pytest.mark.parametrize("identities", [("anna",), ("anna", "bert")])
def test_a_metric_of_sets_passes_through_as_it_is(
    identities: tuple[str, ...], tmp_path: Path
) -> None:
    cells, values = study(tmp_path, identities), {"anna": 0.125, "bert": 0.5}
    for cell in cells:
        path = Layout(tmp_path).scores(cell)
        write_scores(pd.read_csv(path).assign(kid=values[cell.identity]), path, MADE)

    tables = tabulate(cells, tmp_path)
    write_tables("demo", tables, tmp_path)

    by_person = tables.identities.set_index("identity")["kid"]
    assert all(by_person[name].eq(values[name]).all() for name in identities)
    shown = "0.312 (0.125, 0.500)" if len(identities) == 2 else "0.125"
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "KID ↑" in text
    assert text.count(f"| {shown} |") == len(tables.summary)


def test_a_metric_of_sets_has_one_value_of_a_person_and_seed(tmp_path: Path) -> None:
    [cell] = [each for each in study(tmp_path, ("anna",)) if each.protection == "aspl"][:1]
    images = pd.concat(
        _scores(replace(cell, seed=seed)).assign(kid=value)
        for seed, value in (("0", 0.1), ("1", 0.14))
    )

    [made] = by_cell(images, BUDGETS, STEPS).to_dict("records")

    assert made["kid"] == pytest.approx(0.12)
    assert (made["kid_n"], made["kid_values"]) == (2, "0.1 0.14")
    assert math.isnan(made["kid_low"])


def test_differences_are_of_the_seeds_that_both_cells_have() -> None:
    rows = [
        {"identity": who, "seed": seed, "prompt": "photo", "image": "00", "fdfr": value}
        for who, seed, value in (("anna", "0", 0.5), ("anna", "1", 0.9), ("bert", "0", 0.2))
    ]
    of_both = pd.DataFrame(rows)
    of_one = of_both[of_both["seed"] == "0"].assign(fdfr=lambda frame: frame["fdfr"] - 0.2)

    over, terms = paired([(1, of_both), (-1, of_one)])

    assert over == "identities"
    assert total([(sign, frame["fdfr"]) for sign, frame in terms]).tolist() == pytest.approx(
        [0.2, 0.2]
    )


def test_a_mean_over_fewer_identities_says_of_how_many(tmp_path: Path) -> None:
    cells = study(tmp_path)
    for cell in cells:
        if cell.protection == "aspl" and cell.identity == "bert":
            path = Layout(tmp_path).scores(cell)
            write_scores(pd.read_csv(path).assign(relative_ism=math.nan), path, MADE)

    write_tables("demo", tabulate(cells, tmp_path), tmp_path)

    for name in ("summary.md", "contrasts.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert all("n=1" in line for line in text.splitlines() if line.startswith("| aspl"))
        assert not any("n=" in line for line in text.splitlines() if line.startswith("| noise"))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "n=1, 0.152 to 0.652" in text, "bert at 0, and at 1"
    assert "relative ISM; where some have none, n says of how many identities" in text


def test_the_terminal_shows_the_summary(made) -> None:
    printed = summary_text("demo", made)

    assert "demo (model mini" in printed
    assert "(0.305," in printed
    assert max(map(len, printed.splitlines())) <= 80
    for name in ("protection", "purification", "dreambooth"):
        assert name in printed, "no label is broken"


def test_the_terminal_breaks_a_long_label_where_a_part_of_it_ends(made) -> None:
    renamed = made.summary.replace({"trainer": {"cdl": "cdl-without_suffix@200"}})

    printed = summary_text("demo", made._replace(summary=renamed))

    words = {word for line in printed.splitlines() for word in line.split("│")}
    assert {"cdl-without_", "suffix@200", "dreambooth", "aspl"} <= {word.strip() for word in words}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.5, "\N{MINUS SIGN}0.5"),
        (-0.04, "0.0"),
        (math.nan, "\N{EN DASH}"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_typeset(value: float, text: str) -> None:
    assert number(value, ".1f") == text


WRONG_ROWS = {
    "a row twice": (lambda f: pd.concat([f, f[:1]]), "photo 00 is there twice"),
    "a share that is none": (
        lambda f: f.assign(identified=5.96),
        r"identified of 5\.96 is not in \[0, 1\]",
    ),
    "a word": (
        lambda f: f.assign(identified=["x", *f["identified"].astype(str)[1:]]),
        "identified is no number in every row",
    ),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_rows_that_no_cell_can_have_go_into_no_summary(tmp_path: Path, case: str) -> None:
    cells, layout = study(tmp_path), Layout(tmp_path)
    path = layout.scores(cells[0])
    spoil, message = WRONG_ROWS[case]
    write_scores(spoil(pd.read_csv(path, dtype={"image": str})), path, MADE)

    with pytest.raises(CloakBenchError, match=rf"dreambooth\.csv: {message}\. Delete it and run"):
        tabulate(cells, tmp_path)


def test_photos_that_a_purification_left_as_they_were_are_counted(tmp_path: Path) -> None:
    cells, layout = study(tmp_path), Layout(tmp_path)
    told = {"anna": {"photos_without_a_face": 1}, "bert": {"photos_without_a_face": 0}}
    for cell in cells:
        folder = layout.purified(cell)
        folder.mkdir(parents=True, exist_ok=True)
        notes = told[cell.identity] if cell.protection == "aspl" else {}
        seal(folder, {"stage": "purify", "notes": notes, "took": {"seconds_per_photo": 2.0}})

    costs = purifier_costs(cells, layout, tabulate(cells, tmp_path).photos)
    write_purifiers("mine", costs, tmp_path)

    assert costs.set_index("protection")["faceless"].to_dict() == pytest.approx(
        {"clean": math.nan, "noise": math.nan, "aspl": 1}, nan_ok=True
    )
    [row] = [r for r in (tmp_path / "purifiers.md").read_text().splitlines() if "| aspl |" in r]
    photos = costs.set_index("protection")["photos"]["aspl"]
    assert row.endswith(f"| 2 (2) | 1 of {photos} |")


def test_seconds_that_nobody_told_are_no_column(made, tmp_path: Path) -> None:
    """Scores from another machine come without its manifests."""
    costs = purifier_costs(study(tmp_path), Layout(tmp_path), made.photos)
    write_purifiers("mine", costs, tmp_path)

    text = (tmp_path / "purifiers.md").read_text("utf-8")
    assert "| BRISQUE |" in text
    assert "econds" not in text


def test_tables_of_an_earlier_config_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of verdicts beside scores that no claim is made of would be taken for theirs."""
    monkeypatch.chdir(REPOSITORY)
    place = tmp_path / "elsewhere.yaml"
    command = ["tables", "config.yaml", "config/claims-suffix.yaml", str(place)]
    folder = tmp_path / "tables" / "claims-suffix-so-far"
    for claims, there in (("claims/suffix.yaml", True), (None, False)):
        place.write_text(json.dumps({"results": str(tmp_path), "claims": claims}))
        run = CliRunner().invoke(app, [*command, "--pool", "docs/claims-suffix"])

        assert run.exit_code == 0, run.output
        assert (folder / "summary.md").is_file()
        assert (folder / "verdicts.md").is_file() is there
