"""Methods and how they are found: one frozen settings class per method, one registry per stage."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from cloakbench.errors import CloakBenchError, every, nearest
from cloakbench.files.weights import WeightFile
from cloakbench.plugins import load_installed
from cloakbench.settings import Settings

if TYPE_CHECKING:
    from cloakbench.files.layout import Cell

CHANGES_NO_RESULT = True

Spec = dict[str, Any]
"""Plain data that names a method and its settings: ``{"method": "aspl", "budget": "11/255"}``."""


class Part(Protocol):
    """What results depend on: a method, one that it runs, or a diffusion model."""

    @property
    def module(self) -> str: ...

    @property
    def uses(self) -> frozenset[str]: ...

    def files(self) -> Iterable[WeightFile]: ...

    def made_of(self) -> Iterator[Part]: ...


def _about(text: str | tuple[str, ...], noun: str) -> str | tuple[str, ...]:
    """A text, or different ones, on a class of pictures in the place of people or their faces."""
    if isinstance(text, tuple):
        return tuple(dict.fromkeys(str(_about(each, noun)) for each in text))
    return text if noun == "person" else re.sub("person|face", noun, text)


class Method(Settings):
    """A method of any stage: its fields are its settings, every default cites its source.

    Class variables: `name` is set at registration; `source` says where the method is from;
    `presets` maps a preset's name to the settings that it changes; `variants` are presets, too,
    which an entry of a config has laid over the experiment's; `needs` names what the method
    can be given beside photos: "model", the experiment's diffusion model, "surrogate_images",
    "class_images"; and "gpu", for networks of its own; `encodes` says that of the model it needs
    the VAE alone; `class_texts` names settings whose defaults are about pictures of people.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    encodes: ClassVar[bool] = False
    class_texts: ClassVar[tuple[str, ...]] = ()

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

    @property
    def module(self) -> str:
        """The module that it is written in."""
        return type(self).__module__

    @property
    def parts(self) -> Sequence[Part]:
        """Other methods and models that these settings have it run."""
        return ()

    @property
    def uses(self) -> frozenset[str]:
        """What of `needs` these settings use, and what its parts use."""
        return self.needs.union(*(part.uses for part in self.parts))

    @property
    def vae_alone(self) -> bool:
        """Whether it, and all that it runs, can do with the model's VAE."""
        users = [each for each in self.made_of() if "model" in each.uses]
        return all(isinstance(each, Method) and each.encodes for each in users)

    def files(self) -> Iterable[WeightFile]:
        """The files that it reads, found without loading them; not those of its parts.

        Raises:
            CloakBenchError: a file, a hub model or a package is missing, or of the wrong kind.
        """
        return ()

    def made_of(self) -> Iterator[Part]:
        """The method, its parts, their parts, and so on."""
        yield self
        for part in self.parts:
            yield from part.made_of()

    @property
    def folders(self) -> Mapping[str, Path]:
        """Folders of photos that it reads beside those given, by the settings that name them; what
        is in them counts, not where they are.
        """
        return {}

    def of(self, cell: Cell) -> Self:
        """The method for the photos of one cell, whose folders may be its own."""
        return self

    def of_class(self, noun: str) -> Self:
        """The same, but texts that are the default ones are about another class of pictures."""
        defaults = {name: type(self).model_fields[name].default for name in self.class_texts}
        kept = {name: text for name, text in defaults.items() if getattr(self, name) == text}
        return self.model_copy(update={name: _about(text, noun) for name, text in kept.items()})

    def recorded(self) -> Spec:
        """The spec without the places of folders, whose contents are inputs."""
        return {name: value for name, value in self.spec().items() if name not in self.folders}

    def check(self) -> None:
        """Look for every file that the method and its parts read, without loading it.

        Raises:
            CloakBenchError: see `files`; a line for each part.
        """
        every(partial(_look, part) for part in self.made_of())


def _look(part: Part) -> None:
    list(part.files())


def modules_of(*parts: Part) -> list[str]:
    """The modules behind methods and models, for `files.digest.code_digest`."""
    return sorted({each.module for part in parts for each in part.made_of()})


def weight_files(*parts: Part) -> list[WeightFile]:
    """The weight files behind methods and models.

    Raises:
        CloakBenchError: some are missing or of the wrong kind.
    """
    return [file for part in parts for each in part.made_of() for file in each.files()]


M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """The methods of one stage: those of its package's modules, and those of plug-ins."""

    def __init__(self, kind: str, package: str, plugins: str) -> None:
        """
        Args:
            kind: what a method of this stage is called in messages ("protection").
            package: the package whose modules register methods.
            plugins: the group of entry points by which other packages name modules that do so, too.
        """
        self.kind = kind
        self._package = package
        self._plugins = plugins
        self._methods: dict[str, type[M]] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[type[M]], type[M]]:
        """Class decorator that adds a method under its name.

        Raises:
            CloakBenchError: the name is taken.
            TypeError: the class lacks a docstring or a source.
        """

        def add(method: type[M]) -> type[M]:
            if not method.__module__.startswith(f"{self._package}."):
                self._scan_package()  # first, so that a plug-in that takes its names is refused
            known = self._methods.get(name)
            if known is not None and _place(known) != _place(method):
                raise CloakBenchError(
                    f"{self.kind} '{name}' is registered twice, here and in {known.__module__}. "
                    "Rename one."
                )
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
                f"{self.kind} {json.dumps(spec, default=str)}: write a name, or a spec with the "
                "key 'method'."
            )
        settings = {"method": spec} if isinstance(spec, str) else dict(spec)
        if "method" not in settings:
            raise CloakBenchError(
                f"{self.kind} {json.dumps(settings, default=str)}: the key 'method' is missing."
            )
        method = self[str(settings.pop("method"))]
        preset = settings.pop("preset", None)
        known = {**method.presets, **method.variants}
        if preset is not None and not (isinstance(preset, str) and preset in known):
            raise CloakBenchError(
                f"{self.kind} '{method.name}': unknown preset '{preset}': "
                f"{nearest(str(preset), known)}"
            )
        merged = {**(known[preset] if preset else {}), **settings}
        try:
            return method.model_validate(merged)
        except ValidationError as error:
            raise CloakBenchError(
                f"{self.kind} '{method.name}': {explain(error, method)}"
            ) from None

    def _scan(self) -> None:
        if not self._scanned:
            self._scan_package()
            load_installed(self._plugins)
            self._scanned = True

    def _scan_package(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")


def _place(method: type) -> tuple[str, str]:
    return method.__module__, method.__qualname__


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first problem that pydantic found, at best an unknown setting with the
    nearest known one.
    """
    problems = error.errors()
    first = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    # pydantic puts which member of a union it means among the keys
    where = ".".join(str(part) for part in first["loc"] if part != "list[str]")
    if first["type"] == "extra_forbidden":
        known = _settings_at(model, first["loc"][:-1])
        return f"unknown setting '{where}': {nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        missing = [str(each["loc"][-1]) for each in problems if each["type"] == "missing"]
        if len(missing) == 1:
            return f"the key '{where}' is missing."
        return f"the keys {', '.join(map(repr, missing))} are missing."
    message = first["msg"].removeprefix("Value error, ")
    if not where:
        return f"{message}."
    return f"{where} = {_shown(first['input'])}: {message}."


def _shown(value: object, longest: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _settings_at(model: type[BaseModel], place: Iterable[int | str]) -> Iterable[str]:
    """Names of the settings of the model at a place within another, perhaps in a mapping."""
    kind: Any = model
    for part in place:
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[str(part)].annotation if nested else get_args(kind)[-1]
    return cast(type[BaseModel], kind).model_fields
