"""Plug-in files: methods without a clone, in commands and in jobs; misuse is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import REPOSITORY, Workflow
from test_installed import block

import cloakbench
from cloakbench import plugins
from cloakbench.errors import CloakBenchError
from cloakbench.files.digest import _reached
from cloakbench.protect import protections

TAKEN = """
from cloakbench.protect import PhotoProtection, protections

@protections.register("noise")
class Louder(PhotoProtection):
    '''Louder.'''
    source = "x"
"""


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith("cloakbench_plugin_"):
            del sys.modules[name]


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """CONTRIBUTING's protection, in a file somewhere."""
    file = tmp_path / "my stripes.py"
    file.write_text(block("CONTRIBUTING.md", "python", "Add a protection"))
    return file


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_a_file_adds_a_method_to_a_command(stripes):
    """In a process of its own, so that other tests do not meet the method."""
    command = [sys.executable, "-m", "cloakbench", "--plugin", stripes, "methods", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")

    assert "stripes" in {entry["name"] for entry in json.loads(done.stdout)}


def test_a_file_runs_once_in_a_process(tmp_path, capsys):
    file = written(tmp_path / "greeting.py", "print('hello')\n")

    plugins.load_file(file)
    plugins.load_file(tmp_path / "." / "greeting.py")

    assert capsys.readouterr().out == "hello\n"


def test_code_that_a_file_imports_counts(tmp_path):
    plugins.load_file(written(tmp_path / "mine.py", "from cloakbench.protect.pid import PID\n"))

    assert "cloakbench.protect.pgd" in _reached({"cloakbench_plugin_mine"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_there\n", r"ModuleNotFoundError: No module named 'not_there'"),
        ("def (:\n", r"SyntaxError: invalid syntax"),
        (TAKEN.replace("'''Louder.'''", "").replace("noise", "loud"), r"needs a docstring"),
    ],
)
def test_a_file_that_fails_is_one_line_that_names_it(tmp_path, text, message):
    file = written(tmp_path / "broken.py", text)

    with pytest.raises(CloakBenchError, match=rf"broken\.py: .*{message}.*shows where") as caught:
        plugins.load_file(file)

    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_is_one_line_that_says_by_whom(tmp_path):
    said = (
        r"taken\.py: protection 'noise' is registered twice, here and in cloakbench\.protect\.noise"
    )

    with pytest.raises(CloakBenchError, match=rf"{said}\. Rename one\."):
        plugins.load_file(written(tmp_path / "taken.py", TAKEN))

    assert protections["noise"].__module__ == "cloakbench.protect.noise"


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    for name in ("gone.py", "notes.txt"):
        with pytest.raises(CloakBenchError, match=rf"{name}: no such Python file\. Check"):
            plugins.load_file(tmp_path / name)


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    plugins.load_file(written(tmp_path / "mine.py", ""))

    with pytest.raises(CloakBenchError, match=r"other/mine\.py: .*/mine\.py has the same name"):
        plugins.load_file(written(tmp_path / "other" / "mine.py", ""))


def test_an_installed_plug_in_that_fails_is_one_line_that_names_it(monkeypatch):
    entry = EntryPoint("mine", "not_there.mine", "cloakbench.protections")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])

    with pytest.raises(CloakBenchError, match=r"not_there\.mine .*: cannot be loaded .*uninstall"):
        plugins.load_installed("cloakbench.protections")


def test_jobs_know_a_config_s_plug_ins_and_rerun_when_their_code_changes(stripes, tmp_path):
    (tmp_path / "config.yaml").write_text((REPOSITORY / "config.yaml").read_text())
    changes = {"experiment": "plugged", "plugins": [stripes.name], "protections": ["stripes"]}
    workflow = Workflow(tmp_path, changes)
    target = "results/mini/bundled/person_000003/seed_0/protected/stripes/job.json"

    run = workflow.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((tmp_path / target).read_text())["settings"]["method"] == "stripes"

    stripes.write_text(stripes.read_text() + "# a comment\n")
    second = written(tmp_path / "second.py", "")
    more = {"plugins": [stripes.name, str(second)]}
    assert workflow.planned("--cores", "1", target, **more) == {}

    stripes.write_text(stripes.read_text().replace("self.radius * ", "self.radius / 2 * "))
    assert workflow.planned("--cores", "1", target) == {"protect_quick": 1}


def test_the_front_has_what_it_says_and_imports_nothing_heavy():
    script = (
        "import sys, cloakbench\nprint(*{'torch', 'pydantic', 'numpy', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == ""
    assert all(getattr(cloakbench, name) is not None for name in cloakbench.__all__)
    assert {*cloakbench.__all__, "__version__"} <= set(dir(cloakbench))
    with pytest.raises(AttributeError, match="no attribute 'protection'"):
        _ = cloakbench.protection
