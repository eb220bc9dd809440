"""Documents: their figures are those that commands wrote, and their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from conftest import REPOSITORY
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.experiment.experiment import Experiment
from cloakbench.purify import purifiers

MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
RESOURCES = (REPOSITORY / "resources" / "README.md").read_text("utf-8")
FOLDERS = ("benchmarks", "config", "docs", "resources")
PAGES = sorted(path.with_name("README.md") for path in REPOSITORY.glob("docs/*/summary.md"))
SCORES = sorted(REPOSITORY.glob("docs/*/images.csv"))
LEDGERS = sorted(REPOSITORY.glob("docs/*/verdicts.md"))
DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.md")),
    REPOSITORY / "results" / "README.md",
]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every Markdown table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_of_a_study_shows_values_with_intervals_that_are_in_its_tables(page: Path):
    made = " ".join(path.read_text("utf-8") for path in page.parent.glob("*.md") if path != page)
    shown = re.findall(
        r"[+−]?\d[\d.]*%? \[[^]()]+\](?!\()", " ".join(page.read_text("utf-8").split())
    )

    assert len(shown) > 3
    for value in shown:
        assert value in made, value


@pytest.mark.parametrize("decided", LEDGERS, ids=lambda path: path.parent.name)
def test_the_verdicts_shown_are_on_the_claims_that_are_registered(decided: Path):
    experiment = Experiment.load(
        REPOSITORY / "config.yaml", REPOSITORY / "config" / f"{decided.parent.name}.yaml"
    )
    headings, _, *found = rows(decided.read_text("utf-8"))

    assert experiment.claims is not None
    assert [row[0] for row in found] == [each.claim for each in experiment.claims.claims]
    assert headings[:3] == ["claim", "source", "verdict"]


def words(figure: str) -> list[str]:
    """The texts of a figure: names of cells, metrics, ticks."""
    return re.findall("<text[^>]*>([^<]+)</text>", figure)


@pytest.mark.parametrize("decided", SCORES, ids=lambda path: path.parent.name)
def test_the_tables_shown_are_made_anew_from_the_published_scores(
    decided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = decided.parent.name
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "elsewhere.yaml").write_text(f"results: {tmp_path}")
    command = ["tables", "config.yaml", f"config/{name}.yaml", str(tmp_path / "elsewhere.yaml")]
    CliRunner().invoke(app, [*command, "--pool", str(decided.parent)], catch_exceptions=False)

    tables = ["verdicts", "summary", "contrasts", "identities", "photos", "prompts", "expected"]
    for table in (each for each in tables if decided.with_name(f"{each}.md").exists()):
        made = (tmp_path / "tables" / f"{name}-so-far" / f"{table}.md").read_text("utf-8")
        shown = decided.with_name(f"{table}.md").read_text("utf-8")
        assert made.replace(f"{name}-so-far", name) == shown.replace(f"{name}-so-far", name)

    command[0] = "report"
    CliRunner().invoke(app, [*command, "--pool", str(decided.parent)], catch_exceptions=False)
    figure = (tmp_path / "report" / f"{name}-so-far" / "scores.svg").read_text("utf-8")
    assert "relative IMS" in " ".join(words(figure))
    assert words(figure) == words(decided.with_name("scores.svg").read_text("utf-8"))


def claims_of(text: str) -> list[list[str]]:
    """The rows of a page's table of claims: claim, verdict, effect, n."""
    headings, _, *shown = rows(text[text.index("| claim") :].partition("\n\n")[0])
    assert headings == ["claim", "verdict", "effect", "n"]
    return shown


def decided_by(*ledgers: Path) -> list[list[str]]:
    """The same of verdicts."""
    found = []
    for path in ledgers:
        headings, _, *told = rows(path.read_text("utf-8"))
        places = [headings.index(name) for name in ("claim", "verdict", "effect", "n")]
        found += [[row[place] for place in places] for row in told]
    return found


def test_the_first_page_says_of_claims_what_the_ledgers_say():
    shown = claims_of((REPOSITORY / "README.md").read_text("utf-8"))

    assert len(shown) >= 8
    assert all(row in decided_by(*LEDGERS) for row in shown)


@pytest.mark.parametrize("decided", LEDGERS, ids=lambda path: path.parent.name)
def test_a_page_says_of_claims_what_its_ledger_says(decided: Path):
    assert claims_of(decided.with_name("README.md").read_text("utf-8")) == decided_by(decided)


def test_the_shown_figures_of_the_model_are_the_measured_ones():
    measured = json.loads((REPOSITORY / "docs" / "miniature.json").read_text())
    vae, clip, brisque, judge = (measured[part] for part in ("vae", "clip", "brisque", "judge"))
    kept = measured["perturbation_kept"]
    margins, shrunk = measured["judge_margin"], measured["bottleneck"]
    text = " ".join(" ".join(row) for row in rows(RESOURCES))

    assert purifiers["superres"].presets["mini"]["factor"] == shrunk["factor"]
    for shown in (
        f"{vae['psnr']:.1f} dB, {vae['ssim']:.3f}",
        f"{vae['faces_in_originals']:.0%}, {vae['faces_in_reconstructions']:.0%}",
        f"{vae['verification_of_originals']:.3f}, {vae['verification_of_reconstructions']:.3f}",
        f"with a face {measured['samples']['faces']:.0%}",
        f"{kept.pop('noise'):.3f}; {', '.join(f'{kept[name]:.3f}' for name in sorted(kept))}",
        f"{clip['accuracy']:.1%}",
        ", ".join(f"{brisque[of]:.1f}" for of in ("originals", "reconstructions", "samples")),
        ", ".join(f"{value:.0%}" for of, value in brisque.items() if "ranked" in of),
        ", ".join(f"{value:.1f}" for of, value in brisque.items() if "_with_" in of),
        ", ".join(f"{value:.3f}" for of, value in shrunk.items() if "shrunk_by" in of),
        f"{judge['clean']:.1%}",
        ", ".join(f"{of[11:]} {value:.0%}" for of, value in judge.items() if "trained_on" in of),
        ", ".join(f"{of[11:]} {value:.0%}" for of, value in judge.items() if "never_seen" in of),
        ", ".join(f"{margins[of]:.1f}" for of in ("originals", "reconstructions", "samples")),
    ):
        assert shown in text


def test_the_shown_figures_of_the_second_model_are_the_measured_ones():
    measured = json.loads((REPOSITORY / "docs" / "miniature-second.json").read_text())
    vae, brisque, kept = (measured[part] for part in ("vae", "brisque", "perturbation_kept"))
    text = " ".join(RESOURCES.split())

    for shown in (
        f"{vae['psnr']:.1f} dB, {vae['ssim']:.3f}",
        f"{vae['faces_in_reconstructions']:.0%} of reconstructions",
        f"accuracy {vae['verification_of_reconstructions']:.3f}",
        f"noise kept {kept['noise']:.3f}",
        f"with a face {measured['samples']['faces']:.0%}",
        f"CLIP {measured['clip']['accuracy']:.1%}",
        f"reconstructions {brisque['reconstructions']:.1f}, of samples {brisque['samples']:.1f}",
    ):
        assert shown in text


def test_the_first_page_says_what_stable_diffusion_takes_as_its_page_does():
    """Which a test of tests/test_scale.py ties to what `cloakbench plan` counts."""
    page = (REPOSITORY / "docs" / "stable-diffusion.md").read_text("utf-8")
    readme = " ".join((REPOSITORY / "README.md").read_text("utf-8").split())
    table = {row[0]: row[1:] for row in rows(page)}
    trained = table["DreamBooth or CDL with its 32 samples, a cell"]
    [whole] = [value for name, value in table.items() if name.startswith("all 12 cells")]

    assert f"{whole[0]} on an RTX 4090 of 24 GB and {whole[1]} on an H100" in readme
    assert f"DreamBooth alone takes {trained[0].partition(', ')[2]} of GPU memory." in readme


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text("utf-8"))

    for link in links:
        assert "://" in link or (path.parent / link).exists(), link


def test_commands_that_documents_show_are_ones_that_there_are():
    """Their names, options and numbers of arguments; what is asked for is not run."""
    shown = [
        line.strip()
        for path in DOCUMENTS
        for line in re.sub(r"\\\n\s*", "", path.read_text("utf-8")).splitlines()
        if re.match(r" *cloakbench [a-z-]", line)
    ]
    assert len(shown) > 15
    for line in shown:
        command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
        while hasattr(command, "commands"):
            words = words[2:] if words[0] == "--plugin" else words
            command = command.commands[words.pop(0)]
        command.make_context(line, words)  # refuses what the command line would


def test_every_recipe_that_a_source_names_is_there():
    recipes = (REPOSITORY / "docs" / "recipes.md").read_text("utf-8")
    sections = set(re.findall(r"^#+ (\d[\d.]*\d|\d)", recipes, re.MULTILINE))
    sources = (REPOSITORY / "src").rglob("*.py")
    named = {
        number
        for path in sources
        for found in re.findall(r"recipes\s+((?:\d[\d.]*\d|\d)(?:[-,]\s*(?:\d[\d.]*\d|\d))*)",
                                path.read_text("utf-8"))
        for number in re.findall(r"\d[\d.]*\d|\d", found)
    }  # fmt: skip

    assert named <= sections
    assert len(named) > 15


STUDIES = sorted(MAKEFILE.partition("STUDIES := ")[2].splitlines()[0].split())


def made(*targets: str) -> str:
    """What `make` would run, if all packages were there."""
    command = ["make", "--dry-run", "PYTHON=python3", *targets]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_what_documents_would_have_made_can_be():
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    named = {name for text in texts for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)}
    analyses = (REPOSITORY / "config" / "README.md").read_text("utf-8").partition("`make NAME`")[2]
    named |= {row[1].strip("`") for row in rows(analyses) if re.fullmatch("`[a-z-]+`", row[1])}

    assert {"demo", "behaviour", "claims-cdl"} <= named
    made(*named)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_made_is_copied_from_where_its_config_has_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(REPOSITORY)
    experiment = Experiment.load(Path("config.yaml"), Path(f"config/{name}.yaml"))
    tables, report = experiment.layout.tables(name), experiment.layout.report(name).parent

    assert experiment.name == name
    ran = made(name)
    assert f"cp {tables}/*.md {report}/*.svg docs/{name}/\n" in ran
    pictures = re.findall(rf"--out (docs/{name}/\S+)", ran)
    assert [*map(str, Path(f"docs/{name}").glob("person_*.webp"))] in ([], pictures)
