"""The report: one file with scores and pictures inside."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_tables import study, tabulate

from cloakbench.errors import CloakBenchError
from cloakbench.files.layout import Cell, Layout
from cloakbench.files.outputs import MANIFEST
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.report import make_report
from cloakbench.report.gallery import SAMPLES
from cloakbench.report.page import _prose
from cloakbench.report.pictures import embed, magnify
from cloakbench.report.plot import score_plot

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
    for cell in made:
        pictures(layout.data(cell) / "set_B", 2)
        pictures(layout.protected(cell), 2, shift=0 if cell.protection == "clean" else 5)
        for prompt in ("photo", "portrait"):
            pictures(layout.generated(cell) / prompt, SAMPLES + 1)
        settings = CDL if cell.trainer == "cdl" else SAMPLED
        said = {"stage": "sample", "settings": settings, "files": {}}
        (layout.generated(cell) / MANIFEST).write_text(json.dumps(said))
    return made


@pytest.fixture
def page(cells: list[Cell], tmp_path: Path) -> str:
    path = make_report("demo", cells, Layout(tmp_path), tabulate(cells, tmp_path), METHODS)
    return path.read_text(encoding="utf-8")


def images(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_page_holds_every_picture_it_promises(page: str) -> None:
    originals, protected_and_perturbation, samples = 2, 2 * 2 * 2, 3 * 2 * 2 * SAMPLES
    found = images(page)

    assert len(found) == 2 * (originals + protected_and_perturbation + samples)
    assert {image.size for image in found} == {(48, 48)}


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
    assert "<script" not in page
    assert "@import" not in page


def test_the_page_is_well_formed(page: str) -> None:
    class Checker(HTMLParser):
        void = frozenset({"meta", "img", "br", "link"})

        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in self.void:
                self.open.append(tag)
            assert tag != "img" or dict(attrs)["alt"]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_the_page_counts_one_thing_in_the_singular(page: str, cells, tmp_path: Path) -> None:
    layout, tables = Layout(tmp_path), tabulate(cells[:1], tmp_path)
    alone = make_report("one", cells[:1], layout, tables, METHODS)

    assert "2 identities, 12 cells, 72 samples." in page
    assert "1 identity, 1 cell, 6 samples." in alone.read_text(encoding="utf-8")


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


def test_large_pictures_are_shrunk_and_stay_small_files() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    uri = embed(Image.fromarray(noise))

    assert len(uri) < 60_000
    [image] = images(f'src="{uri}"')
    assert image.size == (128, 256)


def test_the_figure_takes_the_colour_of_the_page(cells: list[Cell], tmp_path: Path) -> None:
    summary = tabulate(cells, tmp_path).summary

    svg = score_plot(summary)

    assert "currentColor" in svg
    assert "aspl / cdl" in svg
    assert "100%" in svg, "shares are percentages, as in the tables"
    assert score_plot(summary) == svg
    assert score_plot(summary.drop(columns=["relative_ism", "fdfr"])) == ""
