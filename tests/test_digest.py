"""What reruns after an edit: what the edited code can change, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, complete

from cloakbench.errors import CloakBenchError
from cloakbench.files import digest as module
from cloakbench.files.digest import code_digest
from cloakbench.protect import protections
from cloakbench.registry import modules_of


def forget() -> None:
    """As a new process: files are read again."""
    for function in vars(module).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> Iterator[Path]:
    """A project of its own: a method, its base, and what the method imports late."""
    folder = tmp_path / f"gadgets_{abs(hash(request.node.name))}"
    folder.mkdir()
    files = {
        "__init__": "",
        "base": 'SIZE = 1\n\n\nclass Gadget:\n    """Shared."""\n',
        "helper": f"from {folder.name}.deeper import WORD\nHELP = 1\n",
        "deeper": "WORD = 1\n",
        "aside": "ASIDE = 1\n",
        "shiny": f'''
            """A module."""
            from typing import TYPE_CHECKING

            from {folder.name}.base import Gadget

            if TYPE_CHECKING:
                from {folder.name}.aside import ASIDE


            class Shiny(Gadget):
                """It shines."""  # a comment
                colour = "red"

                def verb(self):
                    """Do."""
                    from . import helper
                    return 1
            ''',
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield folder
    forget()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget()


def test_comments_docstrings_and_layout_rerun_nothing(package):
    before = code_digest(f"{package.name}.shiny")
    edited(package / "shiny.py", "It shines.", "It gleams.")
    edited(package / "shiny.py", '"""A module."""', '"""Another."""\n\n')
    edited(package / "shiny.py", "# a comment", "")
    edited(package / "shiny.py", '"""Do."""', '"""Do it."""')
    edited(package / "base.py", "Shared.", "Common.")

    assert code_digest(f"{package.name}.shiny") == before
    assert re.fullmatch("[0-9a-f]{12}", before)


def test_another_python_reruns_nothing(tmp_path, monkeypatch):
    """Syntax trees of 3.12 have type parameters, and empty ends of f-strings; those of 3.11 not."""
    (tmp_path / "widget.py").write_text('def f(a):\n    return f"{a:>{a}}"\n')
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    assert code_digest("widget") == "18484bb76f7a"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("shiny.py", '"red"', '"blue"'),
        ("shiny.py", "return 1", "return 2"),
        ("base.py", "SIZE = 1", "SIZE = 2"),
        ("helper.py", "HELP = 1", "HELP = 2"),
        ("deeper.py", "WORD = 1", "WORD = 2"),
        ("__init__.py", "", "FRONT = 1"),
    ],
)
def test_imports_count_wherever_they_stand_and_so_does_the_front(package, file, old, new):
    before = code_digest(f"{package.name}.shiny")
    edited(package / file, old, new)

    assert code_digest(f"{package.name}.shiny") != before


def test_what_is_imported_for_types_alone_does_not_count(package):
    before = code_digest(f"{package.name}.shiny")
    edited(package / "aside.py", "ASIDE = 1", "ASIDE = 2")

    assert code_digest(f"{package.name}.shiny") == before


def test_a_name_that_a_front_passes_on_counts_with_the_module_behind_it(package):
    edited(package / "__init__.py", "", f"from {package.name}.aside import ASIDE\n")
    before = code_digest(f"{package.name}.base")
    edited(package / "aside.py", "ASIDE = 1", "ASIDE = 2")

    assert code_digest(f"{package.name}.base") != before


def test_the_data_files_beside_a_front_count(package):
    before = code_digest(f"{package.name}.base")
    (package / "page.html").write_text("<p>")
    forget()

    assert code_digest(f"{package.name}.base") != before


def test_what_editors_leave_beside_a_front_does_not_count(package):
    before = code_digest(f"{package.name}.base")
    (package / ".base.py.swp").write_text("swap")
    (package / ".ipynb_checkpoints").mkdir()
    (package / "old.copies").mkdir()
    forget()

    assert code_digest(f"{package.name}.base") == before


def test_a_module_that_changes_no_result_does_not_count_but_what_it_imports_does(package):
    edited(package / "helper.py", "HELP = 1", "HELP = 1\nCHANGES_NO_RESULT = True")
    before = code_digest(f"{package.name}.shiny")
    edited(package / "helper.py", "HELP = 1", "HELP = 2")
    assert code_digest(f"{package.name}.shiny") == before

    edited(package / "deeper.py", "WORD = 1", "WORD = 2")
    assert code_digest(f"{package.name}.shiny") != before


def test_the_digest_of_a_missing_module_is_one_clear_error():
    with pytest.raises(CloakBenchError, match="its source file cannot be found"):
        code_digest("cloakbench.no_such_module")


def test_digests_differ_between_methods():
    names = complete(protections)
    digests = {code_digest(*modules_of(protections.build(name))) for name in names}

    assert len(digests) == len(names)


ROOTS = """
import json, sys
from cloakbench.experiment.catalogue import REGISTRIES
from cloakbench.files import digest
from cloakbench.models.spec import ModelSpec
from cloakbench.registry import modules_of

model = ModelSpec(path="resources/mini")
stages = {
    "protection": "stages.protect", "purification": "stages.purify", "trainer": "stages.generate",
    "metric": "score.samples", "face backend": "score.references",
}
roots = {}
for registry in REGISTRIES:
    for method in registry:
        stage = f"cloakbench.{stages[registry.kind]}"
        required = {name: "x" for name, f in method.model_fields.items() if f.is_required()}
        built = method(**required)
        used = [model] if "model" in built.uses else []
        roots[f"{registry.kind} {method.name}"] = [stage, *modules_of(built, *used)]
for name in ("experiment.data", "stages.sample", "stages.personalise", "score.photos", "tables",
             "report", "experiment.provenance"):
    roots[name] = [f"cloakbench.{name}"]

def digests():
    digest._own.cache_clear()
    return {name: digest.code_digest(*modules) for name, modules in roots.items()}

before, changed = digests(), {}
for module, file in json.loads(sys.argv[1]).items():
    text = open(file, encoding="utf-8").read()
    open(file, "a", encoding="utf-8").write("\\nEDITED = True\\n")
    changed[module] = sorted(name for name, value in digests().items() if value != before[name])
    open(file, "w", encoding="utf-8").write(text)
print(json.dumps([roots, changed]))
"""
"""Edits every module of the package that it runs from, in turn, and says which digests change."""


def text_imports(text: str, known: set[str]) -> set[str]:
    """Modules that a file's lines import, but for those below `if TYPE_CHECKING:`; by its text."""
    runs = re.sub(r"^( *)if TYPE_CHECKING:\n(?:\1 +.*\n|\n)*", "", text, flags=re.MULTILINE)
    found: set[str] = set()
    pattern = r"^ *from (cloakbench[\w.]*) import (\([^)]*\)|.*)$|^ *import (cloakbench[\w.]*)"
    for source, names, plain in re.findall(pattern, runs, re.MULTILINE):
        inner = {f"{source}.{name}" for name in re.findall(r"\w+", names)}
        found |= {source, plain, *inner} & known
    return found


def with_fronts(modules: set[str]) -> set[str]:
    return {
        ".".join(m.split(".")[: depth + 1]) for m in modules for depth in range(m.count(".") + 1)
    }


def reached(root: list[str], files: dict[str, Path]) -> set[str]:
    waiting, found = {*root}, set()
    while waiting := with_fronts(waiting) - found:
        found |= waiting
        waiting = set().union(*(text_imports(files[m].read_text(), {*files}) for m in waiting))
    return found


def test_an_edit_of_any_module_reruns_what_imports_it_and_nothing_else(tmp_path):
    """Of every method of every stage, and of the stages without methods."""
    shutil.copytree(
        REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__")
    )
    files = {
        ".".join(path.relative_to(tmp_path / "src").with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted((tmp_path / "src" / "cloakbench").rglob("*.py"))
    }
    done = subprocess.run(
        [sys.executable, "-c", ROOTS, json.dumps({m: str(path) for m, path in files.items()})],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    roots, changed = json.loads(done.stdout)
    behind = {name: reached(modules, files) for name, modules in roots.items()}
    plumbing = {m for m, path in files.items() if "\nCHANGES_NO_RESULT = True" in path.read_text()}

    for name in files:
        expected = [] if name in plumbing else sorted(r for r, ms in behind.items() if name in ms)
        assert changed[name] == expected, name
    assert changed["cloakbench.running.jobs"]  # every seed comes from it
    assert changed["cloakbench.protect.pid"] == ["protection pid"]


@pytest.mark.parametrize(
    ("changed", "root"),
    [
        ("running.jobs", "stages.sample"),
        ("models.loading", "protect.pid"),
        ("protect.surrogate", "protect.caat"),
        ("purify.base", "protect.aspl"),
        ("faces.facexlib", "purify.codeformer"),
        ("faces.base", "score.metrics.ism"),
    ],
)
def test_the_holes_of_hand_kept_lists_are_closed(changed: str, root: str):
    """Each of these went unseen, or needed a list of names, while lists were kept by hand."""
    stage = ["cloakbench.stages.protect"] if root.startswith("protect.") else []

    assert f"cloakbench.{changed}" in module._reached({f"cloakbench.{root}", *stage})
