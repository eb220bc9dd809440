"""Digests of code: by them results are made anew after an edit, and only those that it touches."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from cloakbench.errors import CloakBenchError

CHANGES_NO_RESULT = True
"""In a module, at its top level, it says that no result depends on the module's own code (what it
imports still counts): how files are found, errors are worded, outputs appear whole."""

_PROJECT = __name__.partition(".")[0]


def digest(value: Any) -> str:
    """Sixteen hex digits that change when plain data does."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(*modules: str) -> str:
    """Twelve hex digits that change when code behind the modules does: their own, that of all they
    import, and so on, within this project and the modules' own.

    Imports count wherever they stand, but for those for types alone; a package's front counts
    wherever one of its modules does. Comments, docstrings and layout do not count, so tidying a
    file reruns nothing.

    Raises:
        CloakBenchError: a module's source file cannot be found.
    """
    text = "\n".join(f"{name} {_own(name)}" for name in sorted(_reached({*modules})))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _reached(modules: set[str]) -> set[str]:
    """The modules and those that they import, directly or not."""
    reached: set[str] = set()
    while modules:
        reached.add(name := modules.pop())
        modules |= _imported(name) - reached
    return reached


@cache
def _imported(module: str) -> frozenset[str]:
    """Modules of the same project that run when this one does: the fronts above it, and all that
    it ever imports.
    """
    parts = module.split(".")
    fronts = {".".join(parts[:depth]) for depth in range(1, len(parts))}
    named = {name for name in _named(module) if name.partition(".")[0] in {_PROJECT, parts[0]}}
    return frozenset(fronts | {name for name in named if _find(name) is not None})


def _named(module: str) -> Iterator[str]:
    """What import statements name, outside of `TYPE_CHECKING`: modules, or names in them."""
    nodes: list[ast.AST] = [_tree(_text(module))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            source = _absolute(node, module)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that a `from` names, which may count its dots from where it stands."""
    if not node.level:
        return str(node.module)
    spec = _find(module)
    inside = spec is not None and spec.submodule_search_locations is not None
    parts = module.split(".")
    above = parts[: len(parts) - node.level + inside]
    return ".".join([*above, *([node.module] if node.module else [])])


@cache
def _own(module: str) -> str:
    """The digest of what a module's file means; a front stands for its folder's data files, too."""
    file, text = _file(module), _text(module)
    if any(isinstance(node, ast.Assign) and _is_mark(node) for node in _tree(text).body):
        return ""
    beside = file.parent.glob("[!.]*.*") if file.name == "__init__.py" else ()
    data = [path for path in sorted(beside) if path.suffix not in {".py", ".pyc"}]
    read = [path.read_bytes() for path in data if path.is_file()]
    return hashlib.sha256(b"\n".join([_meaning(text).encode(), *read])).hexdigest()


def _is_mark(node: ast.Assign) -> bool:
    return any(getattr(target, "id", "") == "CHANGES_NO_RESULT" for target in node.targets)


@cache
def _meaning(text: str) -> str:
    """The syntax tree of a module without its docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = _tree(text)  # which loses them, and nothing that is imported
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return _dumped(tree)


def _dumped(part: Any) -> str:
    """A part of a syntax tree without what is empty, which versions of Python name or leave out."""
    if isinstance(part, list):
        return f"[{', '.join(map(_dumped, part))}]"
    if isinstance(part, ast.JoinedStr):
        part.values = [each for each in part.values if getattr(each, "value", None) != ""]
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = ((name, value) for name, value in ast.iter_fields(part) if value not in (None, []))
    return f"{type(part).__name__}({', '.join(f'{k}={_dumped(v)}' for k, v in fields)})"


_tree = cache(ast.parse)


def _text(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")


def _file(module: str) -> Path:
    spec = _find(module)
    if spec is None or spec.origin is None:
        raise CloakBenchError(f"{module}: its source file cannot be found. Reinstall cloakbench.")
    return Path(spec.origin)


@cache
def _find(module: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which would import the packages around the module."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    parent = module.rpartition(".")[0]
    package = _find(parent) if parent else None
    if parent and (package is None or package.submodule_search_locations is None):
        return None
    return PathFinder.find_spec(module, package.submodule_search_locations if package else None)
