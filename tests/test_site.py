"""The documentation site, the notebook and the tutorial: they build, run, and load nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLED, REPOSITORY, Workflow

from cloakbench.experiment.catalogue import CONFIG_KEYS
from cloakbench.experiment.config import Config

NOTEBOOK = REPOSITORY / "docs" / "notebook.ipynb"
TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")


class Loaded(HTMLParser):
    """Collects the addresses that a browser fetches when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        fetched = ("href",) if tag == "link" else ("src", "srcset", "poster", "data")
        self.addresses += [named[name] or "" for name in fetched if name in named]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    build = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text("utf-8")
        loaded = Loaded()
        loaded.feed(text)
        assert loaded.addresses
        foreign = [each for each in loaded.addresses if re.match(r"(\w+:)?//", each)]
        assert not foreign, page
        assert 'class="mermaid"' not in text, f"{page}: diagrams are drawn by code from elsewhere"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text("utf-8"))


def test_the_reference_has_every_method_key_and_command(site: Path):
    methods, keys, commands = (
        (site / "reference" / f"{page}.html").read_text("utf-8")
        for page in ("methods", "config", "commands")
    )

    for registry in CONFIG_KEYS.values():
        for method in registry:
            assert f'<h3 id="{method.name}' in methods, method.name
    for key in Config.model_fields:
        assert f"<code>{key}</code>" in keys
    for command in ("protect", "purify", "personalise", "score", "tables", "pretrain-export"):
        assert f'id="cloakbench-{command}"' in commands


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]

    assert len(code) >= 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbclient, _ = pytest.importorskip("nbclient"), pytest.importorskip("ipykernel")
    import nbformat

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()

    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert re.search(r"noise: .* at most 11\n", printed)
    assert re.search(r"pid: .* at most ([1-9]|1[01])\n", printed)


def test_the_tutorial_ends_with_its_line_in_a_table(tiny_model, tmp_path: Path):
    """On a tiny model, one person and no controls; without class images and faces."""
    code, config = (
        re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)[0]
        for language in ("python", "yaml")
    )
    (tmp_path / "fade.py").write_text(code)
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    person = sorted(BUNDLED.glob("*/"))[0]
    shutil.copytree(person, tmp_path / "people" / person.name)
    small = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 128}},
        "datasets": {"bundled": {"path": "people"}},
        "identities": [person.name],
        "preset": "tiny",
        "protections": ["fade"],
        "purifications": ["none"],
        "trainers": [{"method": "dreambooth", "prior_weight": 0}],
        "prompts": {"sample": {"photo": "a photo of {identifier} {class_noun}"}},
        "sampling": {"images": 1, "steps": 2, "sampler": "ddim"},
        "metrics": ["brisque"],
    }
    workflow = Workflow(tmp_path, yaml.safe_load(config) | small)

    run = workflow.snakemake("results/tables/fade/summary.md")

    assert run.returncode == 0, run.stdout + run.stderr
    table = (tmp_path / "results" / "tables" / "fade" / "summary.md").read_text()
    assert "| fade |" in table
