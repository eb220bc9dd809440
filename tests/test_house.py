"""The house: which folder may import which, and that a newcomer finds the right one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import REPOSITORY

SOURCE = REPOSITORY / "src"

FLOORS = """
    errors names settings
    files plugins
    registry
    running prompts
    identity models
    prior phrase descent faces finished
    purify
    protect personalise
    weightless
    counting
    score
    stages
    experiment
    tables
    report
    trial
    miniature
    cli
"""
"""Rooms of the package, lowest floor first. A room imports from floors below it and from itself."""

FLOOR = {
    room: number for number, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()
}


def modules() -> list[str]:
    files = sorted((SOURCE / "cloakbench").rglob("*.py"))
    names = (".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in files)
    return [name.removesuffix(".__init__") for name in names]


def file_of(module: str) -> Path:
    path = SOURCE / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that a module names in its imports, late ones and types included."""
    return frozenset(_imports(module)) - {module}


def _imports(module: str) -> Iterator[str]:
    known = set(modules())
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (inner & known) or {node.module}


def room(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", [m for m in modules() if room(m) not in {"", "__main__"}])
def test_a_module_imports_only_from_floors_below_its_own(module):
    upwards = [
        other
        for other in sorted(imports(module))
        if room(other) and room(other) != room(module) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]

    assert not upwards, f"{module} is on floor {FLOOR[room(module)]}"


def test_every_room_has_its_floor_and_every_floor_its_rooms():
    assert {room(m) for m in modules()} - {"", "__main__"} == FLOOR.keys()


def test_no_modules_import_one_another_in_a_circle_lazy_imports_included():
    left = {module: {*imports(module)} for module in modules()}
    while free := {module for module, named in left.items() if not named & left.keys()}:
        left = {module: named for module, named in left.items() if module not in free}

    assert not left, "circles among " + ", ".join(sorted(left))


def test_the_ten_changes_of_contributing_name_folders_and_files_that_are_there():
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().split("## Where to change what")[1]
    rows = re.findall(r"^\| (?!---|change)(.+?) \| (.+?) \|$", section.split("\n## ")[0], re.M)

    assert len(rows) >= 10
    for change, places in rows:
        named = re.findall(r"`([^`]+)`", places)
        assert named, change
        for place in named:
            assert [*REPOSITORY.glob(place), *(SOURCE / "cloakbench").glob(place)], (change, place)


def defined(module: str) -> set[str]:
    """Names at the top of a module's file, and its submodules."""
    tree = ast.parse(file_of(module).read_text())
    values = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    names = {n.id for value in values for n in ast.walk(value) if isinstance(n, ast.Name)}
    names |= {node.name for node in tree.body if hasattr(node, "name")}
    names |= {
        a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    return names | {each.rpartition(".")[2] for each in modules() if each.startswith(f"{module}.")}


@pytest.mark.parametrize(
    "script",
    [*REPOSITORY.glob("benchmarks/*.py"), *REPOSITORY.glob("tools/*.py")],
    ids=lambda path: path.name,
)
def test_scripts_import_what_the_package_has(script: Path):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cloakbench"):
            assert {each.name for each in node.names} <= defined(str(node.module)), node.module


def functions() -> list[tuple[int, str]]:
    """Lines and place of every function and method of the package."""
    return sorted(
        (int(node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}")
        for module in modules()
        for node in ast.walk(ast.parse(file_of(module).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_a_function_fits_on_a_screen():
    sizes = functions()

    assert sizes[-1][0] <= 45, sizes[-1]
    assert sizes[int(0.9 * len(sizes))][0] <= 22
