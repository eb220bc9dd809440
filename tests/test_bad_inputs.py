"""What people give by mistake, or with ill will: each is one line that says what is wrong.

The inputs are data, in `bad_inputs/`; a new one is a line there.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloakbench.cli import main
from cloakbench.errors import CloakBenchError
from cloakbench.experiment.experiment import Experiment

INPUTS = Path(__file__).parent / "bad_inputs"
FILES = {
    "file": "text",
    "dissertation/chapter.tex": "years of work",
    "strangers/job.json": '{"name": "nightly build"}',
    "mixed/job.json": '{"stage": "protect", "files": {"1.png": "0"}}',
    "mixed/1.png": "",
    "mixed/precious.txt": "",
    "marked/.cloakbench": '["1.png"]',
    "marked/1.png": "",
    "marked/notes.txt": "",
    "broken/job.json": "{",
    "done/.cloakbench": '["1.png"]',
    "done/1.png": "",
    "small.yaml": "identities: null",
    "scores.csv": "a,b",
    "twins/1.png": "",
    "twins/1.webp": "",
    "nested/photo/1.png": "",
    "nested/2.png": "",
    "braces/anna/{1}.png": "",
    "lines/anna/a\nb.png": "",
    "hostile/$(touch x)/1.png": "",
    "hostile/<anna>/1.png": "",
    "hostile/two\nlines/1.png": "",
}


@pytest.fixture
def here(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the commands name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset, tmp_path / "faces")
    shutil.copytree(dataset / "anna" / "set_B", tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def entries(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load((INPUTS / file).read_text()))


def refused(found: list[dict[str, Any]], run: Callable[[dict[str, Any]], str]) -> None:
    """Run all inputs and name those that do not give their line, and only that."""
    wrong = [f"{entry}\n  gave {line}" for entry, line in _lines(found, run)]
    print(f"{len(found)} bad inputs, {len(wrong)} of them without their line")

    assert not wrong, "\n".join(wrong)


def _lines(
    found: list[dict[str, Any]], run: Callable[[dict[str, Any]], str]
) -> Iterator[tuple[dict[str, Any], str]]:
    for entry in found:
        try:
            line = run(entry)
        except Exception as error:
            line = f"a traceback: {error!r}"
        if entry["line"] not in line or "\n" in line:
            yield entry, line


def error_of(work: Callable[[], object]) -> str:
    try:
        work()
    except CloakBenchError as error:
        return str(error)
    return "no error"


def test_a_config_is_refused_before_any_work(here: Path) -> None:
    good = {
        "experiment": "test",
        "model": "mini",
        "models": {"mini": {"path": "resources/mini", "resolution": 128}},
        "dataset": "faces",
        "datasets": {"faces": {"path": "faces"}},
        "protections": ["clean", "aspl"],
        "purifications": ["none"],
        "trainers": ["dreambooth", "cdl"],
    }
    Experiment.parse(good)

    def run(entry: dict[str, Any]) -> str:
        return error_of(lambda: Experiment.parse(good | entry["given"]).check())

    refused(entries("configs.yaml"), run)


def test_a_text_is_refused_as_it_is_read(here: Path) -> None:
    def run(entry: dict[str, Any]) -> str:
        more = "".join(text * times for text, times in entry.get("times", {}).items())
        source = entry["json"] + more if "json" in entry else "bad.yaml"
        if "yaml" in entry:
            Path(source).write_text(entry["yaml"] + more)
        return error_of(lambda: Experiment.read([source]))

    refused(entries("texts.yaml"), run)


def test_a_command_is_refused_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in here.rglob("*")}

    def run(entry: dict[str, Any]) -> str:
        monkeypatch.setattr(sys, "argv", ["cloakbench", *map(str, entry["command"])])
        with pytest.raises(SystemExit) as stopped:
            main()
        return str(stopped.value.code)

    refused(entries("commands.yaml"), run)
    assert {path: path.lstat().st_mtime_ns for path in here.rglob("*")} == before
