"""Methods and how they are found: one frozen settings class per method, one registry per stage."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.units import Settings

PLUMBING = {f"cloakbench.{name}" for name in ("errors", "outputs", "registry", "units", "weights")}
"""Modules that no result depends on."""

Spec = dict[str, Any]
"""Plain data that names a method and its settings: ``{"method": "aspl", "budget": "11/255"}``."""


class Method(Settings):
    """A method of any stage: its fields are its settings, every default cites its source.

    Class variables: `name` is set at registration; `source` says where the method is from;
    `presets` maps a preset's name to the settings that it changes.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def summary(cls) -> str:
        """What it does, on one line: the first paragraph of its docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def spec(self) -> Spec:
        """The settings after defaults, as plain data that builds an equal method."""
        return {"method": self.name, **self.model_dump(mode="json")}

    @property
    def is_control(self) -> bool:
        """Whether this is what the stage's other methods are compared with."""
        return False

    def check(self) -> None:
        """Look for every file that the method reads, without loading it.

        Raises:
            CloakBenchError: a file or a hub model is missing or of the wrong kind.
        """


M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """The methods of one stage, found by scanning the modules of its package."""

    def __init__(self, kind: str, package: str, engine: tuple[str, ...] = ()) -> None:
        """
        Args:
            kind: what a method of this stage is called in messages ("protection").
            package: the package whose modules register methods.
            engine: modules of what methods are given, which they need not import.
        """
        self.kind = kind
        self._package = package
        self._engine = engine
        self._methods: dict[str, type[M]] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[type[M]], type[M]]:
        """Class decorator that adds a method under its name.

        Raises:
            TypeError: the name is taken, or the class lacks a docstring or a source.
        """

        def add(method: type[M]) -> type[M]:
            known = self._methods.get(name)
            if known is not None and _place(known) != _place(method):
                raise TypeError(f"{self.kind} '{name}' is registered twice: {known}, {method}")
            if not method.__dict__.get("__doc__") or not method.source:
                raise TypeError(f"{self.kind} '{name}' needs a docstring and a `source`")
            method.name = name
            self._methods[name] = method
            return method

        return add

    def __iter__(self) -> Iterator[type[M]]:
        self._scan()
        return iter([self._methods[name] for name in sorted(self._methods)])

    def names(self) -> list[str]:
        """Registered names, sorted."""
        return [method.name for method in self]

    def __getitem__(self, name: str) -> type[M]:
        self._scan()
        if name not in self._methods:
            raise CloakBenchError(
                f"unknown {self.kind} '{name}': {nearest(name, self._methods)} "
                "See `cloakbench methods`."
            )
        return self._methods[name]

    def build(self, spec: Spec | str) -> M:
        """Make a method from a name or a spec; a `preset` is applied before the spec's settings.

        Raises:
            CloakBenchError: unknown method, preset or setting, or a value out of bounds.
        """
        if not isinstance(spec, str | dict):
            raise CloakBenchError(
                f"{self.kind} {json.dumps(spec)}: write a name, or a spec with the key 'method'."
            )
        settings = {"method": spec} if isinstance(spec, str) else dict(spec)
        if "method" not in settings:
            raise CloakBenchError(
                f"{self.kind} {json.dumps(settings)}: the key 'method' is missing."
            )
        method = self[str(settings.pop("method"))]
        preset = settings.pop("preset", None)
        if preset is not None and preset not in method.presets:
            raise CloakBenchError(
                f"{self.kind} '{method.name}': unknown preset '{preset}': "
                f"{nearest(str(preset), method.presets)}"
            )
        merged = {**(method.presets[preset] if preset else {}), **settings}
        try:
            return method.model_validate(merged)
        except ValidationError as error:
            raise CloakBenchError(
                f"{self.kind} '{method.name}': {explain(error, method)}"
            ) from None

    def digest(self, name: str) -> str:
        """Twelve hex digits that change when the code behind a method changes: its module, what
        that imports of the project, and so on, and the stage's engine.

        Comments, docstrings and layout do not count, so tidying a file reruns nothing.
        """
        return code_digest(*_reached(self[name].__module__), *self._engine)

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._scanned = True


def _place(method: type) -> tuple[str, str]:
    return method.__module__, method.__qualname__


def code_digest(*modules: str) -> str:
    """Twelve hex digits that change when the code of one of the modules does.

    A package stands for all files in its folder.
    """
    text = "\n".join(_code(module) for module in sorted(set(modules)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _reached(module: str) -> frozenset[str]:
    """A module and those of its project that it imports, directly or not, but for types alone."""
    found, waiting = set(), {module}
    while waiting:
        found.add(name := waiting.pop())
        waiting |= _imported(name) - found - PLUMBING
    return frozenset(found)


def _imported(module: str) -> set[str]:
    """Modules of the same project that a module imports, anywhere but under `TYPE_CHECKING`."""
    project = module.partition(".")[0]
    spec = _find(module)
    if spec is None or spec.origin is None:
        return set()
    names: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(Path(spec.origin).read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == project:
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        nodes += ast.iter_child_nodes(node)
    return {name for name in names if _is_module(name)}


def _is_module(name: str) -> bool:
    """Whether it is a module, and not a package or a name in a module."""
    parent = _find(name.rpartition(".")[0])
    if parent is None or not parent.submodule_search_locations:
        return False
    spec = _find(name)
    return spec is not None and not spec.submodule_search_locations


@cache
def _code(module: str) -> str:
    """What the files of a module mean, as text."""
    spec = _find(module)
    if spec is None or spec.origin is None:
        raise CloakBenchError(f"{module}: its source file cannot be found. Reinstall cloakbench.")
    file = Path(spec.origin)
    files = sorted(file.parent.glob("*.*")) if spec.submodule_search_locations else [file]
    return "\n".join(map(_meaning, files))


def _meaning(file: Path) -> str:
    """The syntax tree of a Python file without its docstrings; other files as they are."""
    if file.suffix != ".py":
        return file.read_text()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def _find(module: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which would import the packages around the module."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    parent = module.rpartition(".")[0]
    package = _find(parent) if parent else None
    return PathFinder.find_spec(module, package.submodule_search_locations if package else None)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first problem that pydantic found, with the nearest known setting."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _settings_at(model, first["loc"][:-1])
        return f"unknown setting '{where}': {nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"the key '{where}' is missing."
    message = first["msg"].removeprefix("Value error, ")
    return f"{where} = {first['input']!r}: {message}."


def _settings_at(model: type[BaseModel], place: Iterable[int | str]) -> Iterable[str]:
    """Names of the settings of the model at a place within another, perhaps in a mapping."""
    kind: Any = model
    for part in place:
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[str(part)].annotation if nested else get_args(kind)[-1]
    return cast(type[BaseModel], kind).model_fields
