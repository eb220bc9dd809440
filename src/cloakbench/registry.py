"""Methods and how they are found: one frozen settings class per method, one registry per stage."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cloakbench.errors import CloakBenchError, nearest

Spec = dict[str, Any]
"""Plain data that names a method and its settings: ``{"method": "aspl", "budget": "11/255"}``."""


class Method(BaseModel):
    """A method of any stage: its fields are its settings, every default cites its source.

    Class variables: `name` is set at registration; `source` says where the method is from;
    `presets` maps a preset's name to the settings that it changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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
            engine: modules that the results of every method of the stage depend on.
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
        """Twelve hex digits that change when the code behind a method changes.

        Comments, docstrings and layout do not count, so tidying a file reruns nothing.
        """
        bases = {base.__module__ for base in self[name].__mro__ if issubclass(base, Method)}
        return code_digest(*bases, *self._engine)

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
