"""Our pages in a real browser: nothing fails, nothing is cut off, and all of it can be used.

Needs Chromium on the system, and playwright and axe-core (`make browser`); skipped without.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import REPOSITORY
from test_report import METHODS, pictures, show
from test_tables import study, tabulate

from cloakbench.files.layout import Layout
from cloakbench.models.spec import ModelSpec
from cloakbench.report import make_report
from cloakbench.trial.page import write_page
from cloakbench.trial.steps import Protected, Recipe, Trial

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sys.path.insert(0, str(REPOSITORY / "tools"))
from screenshots import OPTIONS, SHOTS, browser

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: run `make browser`")
CHROMIUM = browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield program
        program.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("report")
    cells, layout = study(root, tuple("abcdefgh")), Layout(root)
    show(cells, layout)
    return make_report("demo", cells, layout, tabulate(cells, root), METHODS)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory):
    """The page of `cloakbench try`."""
    out = tmp_path_factory.mktemp("trial")
    found = []
    for shift, name in enumerate(("clean", "pid", "aspl")):
        pictures(out / name, 2, shift)
        pictures(out / "samples" / name, 3)
        samples = sorted((out / "samples" / name).iterdir())
        found.append(Protected(name, out / name, samples, 3, 0.5, shift, 40.0))
    named = {path.stem: path for path in sorted((out / "clean").iterdir())}
    model = ModelSpec.at("resources/mini")
    return write_page(Trial(named, out, model, Recipe.of(True, 11)), True, found)


@pytest.fixture(params=["light", "dark"])
def page(request, chromium: Browser, report) -> Iterator[Page]:
    yield from opened(chromium, report, request.param)


@pytest.fixture(params=["light", "dark"])
def trial_page(request, chromium: Browser, trial) -> Iterator[Page]:
    yield from opened(chromium, trial, request.param)


def opened(chromium: Browser, report: Path, colours: str) -> Iterator[Page]:
    """The page; in the end no errors may have been said, and nothing asked of the network."""
    context = chromium.new_context(color_scheme=colours)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda asked: said.append(asked.url) if asked.url[:4] == "http" else None)
    tab.goto(report.as_uri())
    yield tab
    assert said == []
    context.close()


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.locator(".all").first.check()

    assert page.evaluate("document.documentElement.scrollWidth") == width
    scores = page.locator("#scores .scroll")
    scores.evaluate("(box) => { box.scrollLeft = 9999 }")
    name, box = page.locator("#scores tbody th").first.bounding_box(), scores.bounding_box()
    assert name["x"] == pytest.approx(box["x"], abs=2), "names stay while values scroll"


def test_axe_finds_nothing_serious(page: Page) -> None:
    assert violations(page) == {}

    page.locator(".picture").first.click()
    page.locator("dialog .edge").wait_for()
    assert violations(page) == {}


def violations(page: Page) -> dict[str, str]:
    """What axe-core finds, with the first element of each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    found = axe.Axe().run(page).response["violations"]
    return {each["id"]: each["nodes"][0]["html"][:200] for each in found}


def test_the_page_of_a_trial_fits_and_slides_and_axe_finds_nothing(trial_page: Page) -> None:
    for width in (390, 1920):
        trial_page.set_viewport_size({"width": width, "height": 900})
        assert trial_page.evaluate("document.documentElement.scrollWidth") == width
        assert trial_page.locator(".samples img").first.bounding_box()["width"] >= 256

    slider = trial_page.get_by_role("slider").first
    slider.press("ArrowRight")
    pair = trial_page.locator(".pair").first
    assert pair.evaluate("(pair) => pair.style.getPropertyValue('--cut')") == "51%"
    assert violations(trial_page) == {}


def test_tables_are_sorted_and_filtered(page: Page) -> None:
    names = page.locator("#scores tbody th")
    before = names.all_inner_texts()

    button = page.get_by_role("button", name="relative ISM ↓").first
    button.press("Enter")
    values = page.locator("#scores tbody td:not(.more):nth-last-child(2)").all_inner_texts()
    assert [*map(read, values)] == sorted(map(read, values))
    assert names.all_inner_texts() != before
    button.press("Enter")
    assert page.locator("#scores [aria-sort=descending]").count() == 1

    page.locator("#scores input[type=search]").fill("aspl cdl")
    assert page.locator("#scores tbody tr:visible").count() == 1
    assert page.locator("#scores output").inner_text() == "1 of 6 rows"


def read(text: str) -> float:
    return float(text.split()[0])


def test_more_columns_come_on_request(page: Page) -> None:
    headings = page.locator("#scores thead th:visible")
    few = headings.count()
    page.locator("#scores .all").press("Space")

    assert 3 <= few <= 5 < headings.count()


def test_a_picture_is_compared_with_the_keyboard_alone(page: Page) -> None:
    protected = page.locator("#verdicts .picture").nth(1)
    protected.press("Enter")
    page.locator("dialog .edge").wait_for()

    left, right = page.locator("dialog select").all()
    assert left.locator("option:checked").inner_text() == "original, photo 1"
    assert right.locator("option:checked").inner_text() == "protected by aspl, photo 1"
    slider = page.get_by_role("slider")
    slider.press("ArrowRight")
    assert page.locator(".stage").evaluate("(s) => s.style.getPropertyValue('--cut')") == "51%"
    page.locator("dialog input[type=checkbox]").press("Space")
    canvas = page.locator("dialog canvas")
    canvas.wait_for()
    colours = canvas.evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    assert set(colours) == {127 + 10 * 5, 255}, "every pixel was raised by 5"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert protected.evaluate("(picture) => picture === document.activeElement")


def test_pictures_are_large(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    box = page.locator("#verdicts img").first.bounding_box()

    assert box["width"] >= 256
    assert (
        page.locator("#verdicts img").first.evaluate("(i) => getComputedStyle(i).imageRendering")
        == "pixelated"
    )


def test_screenshots_are_made_by_a_command(report, tmp_path) -> None:
    command = [sys.executable, REPOSITORY / "tools" / "screenshots.py", report, "--out", tmp_path]
    subprocess.run(command, check=True)

    assert {file.stem for file in tmp_path.iterdir()} == SHOTS.keys()
