"""The report: one file with scores and pictures inside."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_tables import study, tabulate

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.experiment import _with_snapshots
from cloakbench.files.layout import Cell, Layout
from cloakbench.files.outputs import MANIFEST
from cloakbench.personalise import trainers
from cloakbench.protect import Protection, protections
from cloakbench.purify import purifiers
from cloakbench.report import make_report, plot
from cloakbench.report.curves import axes, curve_plot
from cloakbench.report.evidence import evidence, headline
from cloakbench.report.gallery import SAMPLES
from cloakbench.report.heat_map import heat_map
from cloakbench.report.page import _prose
from cloakbench.report.pictures import magnify, photos
from cloakbench.tables import write_tables

METHODS = {
    "protection": {name: protections.build(name) for name in ("clean", "noise", "aspl")},
    "purification": {"none": purifiers.build("none")},
    "trainer": {name: trainers.build(name) for name in ("dreambooth", "cdl")},
}
SAMPLED = {"prompts": {"photo": "a photo of <sks> person"}, "negative_prompt": ""}
CDL = {
    "prompts": {"photo": "a photo of <sks> person, without bhj noisy pattern"},
    "negative_prompt": "noisy, lowres",
}


def pictures(folder: Path, count: int, shift: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(20, 230, (48, 48, 3)) + shift
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02d}.png")


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    layout, made = Layout(tmp_path), study(tmp_path)
    show(made, layout)
    return made


def show(cells: list[Cell], layout: Layout) -> None:
    """Photos and samples of the cells."""
    for cell in cells:
        pictures(layout.data(cell) / "set_B", 2)
        pictures(layout.protected(cell), 2, shift=0 if cell.protection == "clean" else 5)
        for prompt in ("photo", "portrait"):
            pictures(layout.generated(cell) / prompt, SAMPLES + 1)
        settings = CDL if cell.trainer == "cdl" else SAMPLED
        said = {"stage": "sample", "settings": settings, "files": {}}
        (layout.generated(cell) / MANIFEST).write_text(json.dumps(said))


@pytest.fixture
def page(cells: list[Cell], tmp_path: Path) -> str:
    path = make_report("demo", cells, Layout(tmp_path), tabulate(cells, tmp_path), METHODS)
    return path.read_text(encoding="utf-8")


def images(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_page_holds_every_picture_it_promises(page: str) -> None:
    originals, protected_and_perturbation, samples = 2, 2 * 2 * 2, 3 * 2 * 2 * SAMPLES
    evidence = 3 + 4  # a photo and four samples of one person
    found = images(page)

    assert len(found) == evidence + 2 * (originals + protected_and_perturbation + samples)
    assert {image.size for image in found} == {(48, 48)}


def test_small_photos_are_in_the_page_pixel_by_pixel(page: str, cells, tmp_path: Path) -> None:
    saved = Image.open(Layout(tmp_path).protected(cells[-1]) / "00.png")

    assert any(np.array_equal(np.asarray(each), np.asarray(saved)) for each in images(page))
    assert page.count("<img") == page.count('class="small"')


def test_the_page_shows_scores_with_intervals_and_prompts_as_text(page: str) -> None:
    assert "0.255 <small>(0.305, 0.205)</small>" in page
    assert "<svg" in page
    assert "perturbation × 10" in page


def test_the_page_shows_the_prompts_that_were_sampled_with(page: str) -> None:
    captions = Counter(re.findall("<figcaption>(a photo.*)</figcaption>", page))

    plain = "a photo of &lt;sks&gt; person"
    assert captions == {plain: 6, f"{plain}, without bhj noisy pattern": 6}
    assert page.count("negative prompt: noisy, lowres") == 6
    assert page.count("<figcaption>portrait</figcaption>") == 12, "a key without words"


def test_distances_of_an_identity_follow_the_tables_rule(cells: list[Cell], tmp_path: Path) -> None:
    """The largest change of all photos, and the PSNR of those that changed."""
    layout, tables = Layout(tmp_path), tabulate(cells, tmp_path)
    aspl = tables.distances.index[tables.distances["protection"] == "aspl"]
    tables.distances.loc[aspl[0], "psnr"] = math.inf

    page = make_report("demo", cells, layout, tables, METHODS).read_text(encoding="utf-8")

    linf, psnr = (rf"<dt>{name}</dt><dd>(.+?)</dd>" for name in (r"L∞ \[levels\]", r"PSNR \[dB\]"))
    shown = re.findall(f"{linf}</div><div>{psnr}", page)
    assert Counter(shown) == {("0", "∞"): 2, ("11", "30.0"): 4}


def test_the_page_says_what_its_labels_stand_for(page: str) -> None:
    text = html.unescape(page)

    assert "<small>protection</small> aspl</dt>" in text
    assert protections["aspl"].summary() in text
    assert protections["aspl"].source in text
    assert "demo/provenance.md" in text


def test_docstrings_are_text_with_code_in_it() -> None:
    assert _prose("as `ism`, for x < 1") == "as <code>ism</code>, for x &lt; 1"


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(
        r"@import|url\((?!#)|import\(|fetch\(|XMLHttpRequest|https?://\S+\.js", page
    )


class Structure(HTMLParser):
    """What of a page's elements machines can judge: nesting, names, headings, ids, scopes."""

    void = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.levels: list[int] = []
        self.svg: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag not in self.void:
            self.open.append(tag)
        if "svg" in self.open:
            return
        self.ids += [given["id"]] if "id" in given else []
        self.links |= {given["href"]} if tag == "a" else set()
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        assert tag != "img" or given["alt"]
        assert tag != "th" or given["scope"]
        assert tag not in {"input", "select"} or "label" in self.open
        assert "tabindex" not in given or given["aria-label"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_equal_results_make_equal_pages(page: str, cells: list[Cell], tmp_path: Path) -> None:
    again = make_report("demo", cells, Layout(tmp_path), tabulate(cells, tmp_path), METHODS)

    assert again.read_text(encoding="utf-8") == page


def test_a_control_that_failed_is_said_before_any_verdict(cells, tmp_path: Path) -> None:
    tables = tabulate(cells, tmp_path)
    failed = tables.summary.assign(fdfr=0.9)

    path = make_report("demo", cells, Layout(tmp_path), tables._replace(summary=failed), METHODS)

    page = path.read_text("utf-8")
    warning, verdicts = page.index("The control failed: clean"), page.index('class="verdicts"')
    assert 0 < warning < verdicts
    assert "<h1>The control failed: clean photos are not learnt.</h1>" in page


def test_the_page_is_well_formed(page: str) -> None:
    found = Structure(re.sub("<script>.*</script>", "", page, flags=re.DOTALL))

    assert found.open == []
    assert len(found.ids) == len({*found.ids})
    assert found.links <= {f"#{name}" for name in found.ids}
    assert found.levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(found.levels))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_marks_stand_out_in_light_and_dark() -> None:
    style = (Path(plot.__file__).parent / "page.css").read_text()
    for colours in re.findall(r":root \{ (.*?) \}", style):
        named = dict(re.findall(r"--(\w+): (#\w{6}|#fff)", colours))
        pages = [colour if len(colour) == 7 else "#ffffff" for colour in
                 (named["page"], named["card"])]  # fmt: skip
        for page in pages:
            text = ("ink", "soft", "mark", "held", "lost")
            assert min(contrast(named[name], page) for name in text) >= 4.5
            assert min(contrast(look.colour, page) for look in plot.LOOKS) >= 3


def test_the_page_counts_one_thing_in_the_singular(page: str, cells, tmp_path: Path) -> None:
    layout, tables = Layout(tmp_path), tabulate(cells[:1], tmp_path)
    alone = make_report("one", cells[:1], layout, tables, METHODS)

    assert "2 identities, 12 cells, 72 samples<" in page
    assert "1 identity, 1 cell, 6 samples<" in alone.read_text(encoding="utf-8")


def test_what_is_planned_and_not_scored_is_not_counted(cells, tmp_path: Path) -> None:
    """As with --pool, whose tables are of what was scored somewhere."""
    layout, some = Layout(tmp_path), tabulate(cells[:6], tmp_path)

    page = make_report("some", cells, layout, some, METHODS, here=cells[:6]).read_text("utf-8")

    assert "1 identity, 6 cells, 36 samples<" in page


def test_a_missing_folder_of_samples_is_named(cells: list[Cell], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    tables = tabulate(cells, tmp_path)
    layout.generated(cells[0]).rename(tmp_path / "gone")

    with pytest.raises(CloakBenchError, match="generated/clean/none/dreambooth: no such folder"):
        make_report("demo", cells, layout, tables, METHODS)


def test_a_perturbation_is_magnified_around_middle_grey() -> None:
    original = Image.new("RGB", (4, 4), (100, 100, 100))
    changed = Image.new("RGB", (4, 4), (101, 95, 200))

    assert magnify(changed, original).getpixel((0, 0)) == (137, 77, 255)


def test_of_large_pictures_the_first_is_whole_and_the_others_stay_small_files() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    whole, preview = photos(dict.fromkeys("ab", Image.fromarray(noise)), "noise")

    assert (whole.width, whole.height) == (256, 512)
    assert (preview.width, preview.height) == (128, 256)
    assert len(preview.uri) < 60_000
    assert not whole.small


@pytest.mark.parametrize(("most", "sizes"), [(12, {40}), (11, {24, 40})])
def test_all_pictures_are_whole_where_cells_are_few(most, sizes, cells, tmp_path, monkeypatch):
    monkeypatch.setattr("cloakbench.report.pictures.SIDE", 40)
    monkeypatch.setattr("cloakbench.report.pictures.PREVIEW", 24)
    monkeypatch.setattr("cloakbench.report.gallery.FEW_CELLS", most)

    path = make_report("demo", cells, Layout(tmp_path), tabulate(cells, tmp_path), METHODS)

    assert {image.width for image in images(path.read_text("utf-8"))} == sizes


def test_the_figure_takes_the_colour_of_the_page_and_has_its_own_as_a_file(
    cells: list[Cell], tmp_path: Path
) -> None:
    tables = tabulate(cells, tmp_path)

    svg = plot.score_plot(tables)

    assert "currentColor" in svg
    assert "aspl / cdl" in svg
    assert "100%" in svg, "shares are percentages, as in the tables"
    assert {*re.findall("#[0-9a-f]{6}", svg)} == {plot.PROTECTED.colour, plot.UNDONE.colour}
    assert plot.score_plot(tables) == svg
    assert "prefers-color-scheme:dark" in plot.standalone(svg)
    hostile = tables.summary.replace("aspl", "<b>$x^2$")
    assert "&lt;b&gt;$x^2$ / cdl" in plot.score_plot(tables._replace(summary=hostile))
    nothing = tables.summary.drop(columns=["relative_ism", "fdfr"])
    assert plot.score_plot(tables._replace(summary=nothing)) == ""


def named(**specs: object) -> dict[str, Protection]:
    return {name.replace("_", "-"): protections.build(spec) for name, spec in specs.items()}


def aspl(**settings: object) -> dict[str, object]:
    return {"method": "aspl", **settings}


def test_a_number_in_which_entries_differ_alone_makes_a_curve() -> None:
    learning = {"method": "dreambooth", "steps": 400, "snapshots": [50, 100]}
    methods = {
        "protection": named(
            clean="clean", aspl_2=aspl(budget=2), aspl_8=aspl(budget=8), aspl="aspl",
            of_other_rounds=aspl(budget=4, rounds=1), noise_2={"method": "noise", "budget": 2},
        ),
        "trainer": _with_snapshots({"dreambooth": trainers.build(learning)}, keep_weights=False),
    }  # fmt: skip

    budget, steps = axes(methods)

    assert (budget.setting, budget.lines) == ("budget", [{"aspl-2": 2, "aspl-8": 8, "aspl": 11}])
    assert "grey levels" in budget.title
    assert steps.lines == [{"dreambooth@50": 50, "dreambooth@100": 100, "dreambooth": 400}]
    assert axes(METHODS) == []


def test_curves_are_drawn_against_their_setting_with_controls_beside_them(cells, tmp_path) -> None:
    tables = tabulate(cells, tmp_path)
    labels = {"aspl": 11, "aspl-8": 8, "aspl-2": 2}
    methods = {"protection": {k: protections.build(aspl(budget=v)) for k, v in labels.items()}}
    own = tables.summary[tables.summary["protection"] == "aspl"]
    more = [own.assign(protection=name, fdfr=0.1) for name in ("aspl-8", "aspl-2")]
    tables = tables._replace(summary=pd.concat([tables.summary, *more], ignore_index=True))

    svg = curve_plot(tables, methods)

    words = [html.unescape(each) for each in re.findall(r">([^<>]+)</text>", svg)]
    assert {"2", "8", "11", "aspl / dreambooth", "aspl / cdl", "clean / cdl"} <= {*words}
    assert "largest change of a channel value [grey levels of 255]" in words
    assert curve_plot(tables, METHODS) == ""
    path = make_report("demo", cells, Layout(tmp_path), tables, METHODS | methods)
    assert "curves.svg" in {each.name for each in path.parent.iterdir()}
    assert path.read_text("utf-8").count("<svg") == 2


def test_a_map_is_darkest_where_the_protection_holds_least(cells, tmp_path) -> None:
    tables = tabulate(cells, tmp_path)
    assert heat_map(tables) == "", "two cells make no map"
    own = tables.summary[tables.summary["protection"] == "aspl"]
    grid = [
        own.assign(purification=name, relative_ism=own["relative_ism"] + step, fdfr=0.5 - step)
        for name, step in (("none", 0.0), ("jpeg", 0.2), ("codesr", 0.4))
    ]
    tables = tables._replace(summary=pd.concat(grid, ignore_index=True))

    svg = heat_map(tables)

    depths = [float(each) for each in re.findall(r"fill-opacity: ([\d.]+)", svg)]
    assert depths == pytest.approx([0.0, 0.0, 0.3, 0.3, 0.6, 0.6] * 2)
    assert "50%" in svg
    assert "aspl: FDFR" in svg


def test_a_table_shows_few_columns_and_has_the_others(page: str) -> None:
    scores = page.split('id="scores"')[1].split("</table>")[0]
    headings = re.findall(r'<th scope="col"( class="more")?><button[^>]*>(.*?)</button>', scores)

    assert [text for more, text in headings if not more] == [
        "protection <small>trainer</small>", "FDFR\u00a0↑", "relative ISM\u00a0↓",
    ]  # fmt: skip
    assert [text for more, text in headings if more] == [
        "budget", "steps", "identities", "images", "faces", "identified\u00a0↓",
    ]  # fmt: skip


def test_names_are_text_and_never_code(tmp_path: Path) -> None:
    """In the page, in its figure, and in tables as Markdown, LaTeX and CSV."""
    names = ("<b onclick=x()>anna", "=1+1 & $x^2$ [a](b) {c}", "[anna]")
    layout, made = Layout(tmp_path), study(tmp_path, names)
    show(made, layout)
    tables = tabulate(made, tmp_path)
    methods = {"protection": {"<b>": protections.build("clean")}}

    page = make_report("<b>$a$", made, layout, tables, methods).read_text("utf-8")
    write_tables("<b>$a$", tables, tmp_path / "tables")

    Structure(re.sub("<script>.*</script>", "", page, flags=re.DOTALL))
    markdown = (tmp_path / "tables" / "identities.md").read_text("utf-8")
    assert "<b onclick" not in page + markdown
    assert "<b>$a$" not in page + markdown
    assert "[a](b)" not in markdown
    assert r"=1+1 \& \$x\textasciicircum{}2\$ [a](b) \{c\}" in (
        tmp_path / "tables" / "identities.tex"
    ).read_text("utf-8")
    assert ",'=1+1 " in (tmp_path / "tables" / "identities.csv").read_text("utf-8")


def test_the_first_line_counts_claims_in_words_and_decides_nothing_by_one_person(
    tmp_path: Path,
) -> None:
    verdicts = pd.DataFrame({"verdict": ["holds", "contradicted", "undecided", "undecided"]})

    assert headline([], verdicts) == "Of 4 claims 1 holds, 1 is contradicted, 2 are undecided"
    cells = study(tmp_path, ("anna",))
    show(cells, Layout(tmp_path))
    shown = evidence(cells, Layout(tmp_path), tabulate(cells, tmp_path))
    assert headline(shown, None) == "One person's photos, protected by aspl"


def test_evidence_shows_the_control_that_its_number_is_beside(
    cells: list[Cell], tmp_path: Path
) -> None:
    [shown] = evidence(cells, Layout(tmp_path), tabulate(cells, tmp_path))

    beside = shown.found.identity.beside
    assert beside == "noise"
    assert [p.words for p in shown.pictures if f"learnt from {beside} photos" in p.words]
