"""A protection is one file: CONTRIBUTING's example, dropped into a copy of the package, works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import REPOSITORY

Run = Callable[..., str]


@pytest.fixture(scope="module")
def example() -> str:
    """The code block of "Add a protection"."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().split("## Add a protection")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def with_stripes(example: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a Python module against a copy of the package to which only stripes.py was added."""
    source = tmp_path_factory.mktemp("copy") / "src"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src" / "cloakbench", source / "cloakbench", ignore=ignored)
    (source / "cloakbench" / "protect" / "stripes.py").write_text(example)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_example_has_at_most_60_lines_and_is_clean(example, tmp_path):
    (tmp_path / "stripes.py").write_text(example)

    assert len(example.splitlines()) <= 60
    settings = ["--config", str(REPOSITORY / "pyproject.toml"), str(tmp_path)]
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True)


def test_the_new_method_is_in_the_catalogue(with_stripes: Run):
    entries = json.loads(with_stripes("cloakbench", "methods", "--json"))

    [entry] = [entry for entry in entries if entry["name"] == "stripes"]
    assert entry["kind"] == "protection"
    assert {s["name"]: s["default"] for s in entry["settings"]} == {
        "budget": "11/255",
        "width": 1,
        "share": 1.0,
    }
    assert set(entry["presets"]) == {"paper", "mini", "tiny"}


def test_the_new_method_is_in_the_schema_of_configs(with_stripes: Run):
    schema = json.loads(with_stripes("cloakbench", "schema"))

    names, *entries = schema["properties"]["protections"]["items"]["anyOf"]
    assert "stripes" in names["enum"]
    [entry] = [e for e in entries if e["properties"]["method"]["const"] == "stripes"]
    assert entry["properties"]["width"]["minimum"] == 1
    assert entry["properties"]["preset"] == {"enum": ["mini", "paper", "tiny"]}


def test_the_contract_tests_cover_the_new_method_and_it_passes_them(with_stripes: Run):
    cache = ["-p", "no:cacheprovider"]

    report = with_stripes("pytest", "tests/test_protect.py", "-k", "stripes", "-v", *cache)

    passed = re.findall(r"::(\w+)\[stripes.*PASSED", report)
    for promise in (
        "test_names_shape_and_range_are_kept_on_whole_grey_levels",
        "test_saved_files_stay_within_the_budget",
        "test_the_same_seed_gives_the_same_bytes",
        "test_another_seed_gives_other_bytes",
        "test_global_random_state_is_neither_used_nor_changed",
    ):
        assert promise in passed
