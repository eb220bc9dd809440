"""Outside of a clone: the built wheel, a plug-in package beside it, and the docs' Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY

Run = Callable[..., str]
PHOTOS = "resources/identities/person_000003/set_B"
METRIC = '''
from cloakbench.score.base import ImageMetric, metrics


@metrics.register("brightness")
class Brightness(ImageMetric):
    """The mean of all pixels."""

    source = "an example"
    title, protects, bounds, reads = "Brightness", "higher", (0, 255), frozenset({"pixels"})

    def score(self, sample, references, identity):
        import numpy as np

        return float(np.asarray(sample.image).mean())
'''
METRIC_ENTRY = """
[project.entry-points."cloakbench.metrics"]
brightness = "cloakbench_stripes.brightness"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
DIGEST = """
from cloakbench import protections
from cloakbench.files.digest import code_digest
from cloakbench.registry import modules_of

print(code_digest(*modules_of(protections.build("stripes"))))
"""


def block(document: str, language: str, section: str) -> str:
    """The first code block of a language in a section of a document."""
    text = (REPOSITORY / document).read_text("utf-8").split(f"## {section}\n")[1]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of a package as CONTRIBUTING describes it: a protection and a metric."""
    folder = tmp_path_factory.mktemp("stripes")
    described = block("CONTRIBUTING.md", "toml", "Methods of your own, without a clone")
    (folder / "pyproject.toml").write_text(described + METRIC_ENTRY)
    modules = folder / "cloakbench_stripes"
    modules.mkdir()
    (modules / "__init__.py").touch()
    (modules / "stripes.py").write_text(block("CONTRIBUTING.md", "python", "Add a protection"))
    (modules / "brightness.py").write_text(METRIC)
    return folder


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which the built wheel and the plug-in package were installed."""
    pytest.importorskip("uv")
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")

    def uv(*arguments: object) -> None:
        command = [sys.executable, "-m", "uv", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    uv("build", "--out-dir", built, REPOSITORY)  # the wheel from the source distribution
    into = ("--no-deps", "--python", sys.executable, "--target", site)
    uv("pip", "install", *into, *built.glob("*.whl"), package)
    return site


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Run:
    """Run a command in an empty folder, with what is installed and the packages of this Python."""

    def run(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def cloakbench(installed: Run, site: Path) -> Run:
    """Run the installed command."""
    return lambda *arguments: installed(site / "bin" / "cloakbench", *arguments)


def test_the_installed_command_runs_the_installed_package(cloakbench, installed, site):
    place = installed(sys.executable, "-c", "import cloakbench; print(cloakbench.__file__)")

    assert Path(place.strip()) == site / "cloakbench" / "__init__.py"
    assert re.fullmatch(r"cloakbench \d+\.\d+\.\d+\n", cloakbench("--version"))


def test_methods_of_an_installed_package_are_in_the_catalogue_with_ours(cloakbench):
    found = {(e["kind"], e["name"]) for e in json.loads(cloakbench("methods", "--json"))}

    assert {("protection", "stripes"), ("metric", "brightness")} <= found
    assert {("protection", "pid"), ("purification", "jpeg"), ("trainer", "cdl")} <= found


def test_bundled_photos_are_protected_and_measured_by_methods_of_a_package(cloakbench, tmp_path):
    cloakbench("protect", "stripes", "--instance", PHOTOS, "--out", "protected")
    cloakbench("distances", "protected", PHOTOS, "--metric", "brightness", "-o", "distances.csv")

    made = json.loads(cloakbench("manifest", "protected"))
    header, *rows = (tmp_path / "distances.csv").read_text().splitlines()
    said = {"method": "stripes", "budget": "11/255", "width": 1, "share": 1.0}
    assert made["settings"] == said
    assert header.endswith(",brightness")
    assert len(rows) == len(made["files"]) == 4


def test_the_default_config_finds_the_miniature_and_its_people_from_any_folder(
    cloakbench, tmp_path
):
    (tmp_path / "config.yaml").write_text((REPOSITORY / "config.yaml").read_text())

    assert "identities: person_000003" in cloakbench("check", "config.yaml")


def test_a_package_s_code_counts_and_its_comments_do_not(installed, site):
    file = site / "cloakbench_stripes" / "stripes.py"
    source = file.read_text()
    before = installed(sys.executable, "-c", DIGEST)

    file.write_text(source + "# a comment\n")
    commented = installed(sys.executable, "-c", DIGEST)
    file.write_text(source.replace("self.radius * ", "self.radius / 2 * "))
    edited = installed(sys.executable, "-c", DIGEST)
    file.write_text(source)

    assert before == commented != edited


def test_the_start_page_s_lines_of_python_run_in_an_empty_folder(installed):
    lines = block("docs/start.md", "python", "From Python")

    protected, purified = installed(sys.executable, "-c", lines).splitlines()

    assert 0 < int(protected.split()[-1]) <= 11
    assert purified.startswith("purified: ")
    assert len([line for line in lines.splitlines() if line]) <= 10
