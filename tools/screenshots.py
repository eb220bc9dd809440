"""Picture a report as browsers show it: wide, on a phone, in light and in dark.

    python tools/screenshots.py results/report/mini/index.html --out docs/report

Writes `wide.png`, `dark.png`, `phone.png` and `compare.png`, with the Chromium of the system (or
what `--browser` names) and the package playwright; `make screenshots` installs the latter.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")  # also in containers
SHOTS = {  # width, height [px], colours, and what to choose first
    "wide": (1280, 1000, "light", ""),
    "dark": (1280, 1000, "dark", ""),
    "phone": (390, 844, "light", ""),
    "compare": (1280, 1000, "light", "#verdicts .picture >> nth=1"),
}


def browser() -> str | None:
    """The first browser of the system that can be driven."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def shoot(page: Path, out: Path, program: str) -> None:
    """Write all pictures of a page into a folder."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=OPTIONS)
        for name, (width, height, colours, choice) in SHOTS.items():
            tab = chromium.new_page(
                viewport={"width": width, "height": height}, color_scheme=colours
            )
            tab.goto(page.resolve().as_uri())
            if choice:
                tab.locator(choice).click()
                tab.locator("dialog .edge").wait_for()
            tab.screenshot(path=out / f"{name}.png")
            tab.close()
        chromium.close()


def main() -> None:
    """Read the command line and picture the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="a report, index.html")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--browser", default=browser(), help="a Chromium")
    given = parser.parse_args()
    if given.browser is None:
        sys.exit("error: there is no Chromium here. Install one, or name it with --browser.")
    if not given.page.is_file():
        sys.exit(f"error: {given.page}: no such file. Run snakemake, which writes it.")
    shoot(given.page, given.out, given.browser)


if __name__ == "__main__":
    main()
