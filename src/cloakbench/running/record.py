"""Records: all that a result is made of, in its manifest, by which it is known to be current."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cloakbench.files.digest import code_digest, digest
from cloakbench.files.verified import Source, read_source
from cloakbench.files.weights import WeightFile, sha256_of
from cloakbench.registry import Part, modules_of, weight_files
from cloakbench.running.machine import environment

CHANGES_NO_RESULT = True


class Model(Part, Protocol):
    """A base model: a part with settings of its own."""

    def model_dump(self, *, mode: str, exclude: set[str]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Facts:
    """What every result of a stage with a method has in common, whoever it shows.

    stage: its name. settings: after defaults. code: the digest of all code behind it. weights: of
    the method's own networks, their names by SHA-256. model: settings and weights of the base
    model, where it is used. given: what else goes in, such as prompts as the tokenizer gets them.
    """

    stage: str
    settings: Any
    code: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        stage: str,
        module: str,
        settings: Any,
        *parts: Part,
        model: Model | None = None,
        cache: Path | None = None,
        **given: Any,
    ) -> Facts:
        """Gather them; places are left out, so that a study may move with all that it is made of.

        module: runs the stage. parts: the methods that it runs. cache: see `sha256_of`.

        Raises:
            CloakBenchError: weights are missing or of the wrong kind.
        """
        models = [] if model is None else [model]
        return cls(
            stage,
            without_places(settings),
            code_digest(module, *modules_of(*parts, *models)),
            named_digests(weight_files(*parts), cache),
            None if model is None else _based_on(model, cache),
            without_places(given),
        )

    def data(self) -> dict[str, Any]:
        """As manifests have them."""
        fixed = {"stage": self.stage, "settings": self.settings, "code": self.code}
        more = {"weights": self.weights, "model": self.model, **self.given}
        return fixed | {name: value for name, value in more.items() if value}

    @cached_property
    def digest(self) -> str:
        """What differs if any of them does; names of files, which are for readers, do not count."""
        data = self.data()
        model = data.get("model")
        counted = {
            **data,
            "weights": sorted(self.weights),
            "model": model and {**model, "weights": sorted(model["weights"])},
        }
        return digest(counted)


@dataclass(frozen=True)
class Record:
    """What one result is made of.

    who: what tells it from others of the same facts: identity, seed, labels. inputs: other results
    or folders of the user's that go into it, by what they are to it.
    """

    facts: Facts
    who: Mapping[str, Any]
    inputs: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Facts, who: Mapping[str, Any], inputs: Mapping[str, Path | None]) -> Record:
        """A record of what is read from files and folders; None is left out.

        Raises:
            CloakBenchError: a manifest is damaged, or a file may not be read.
        """
        read = {name: read_source(path) for name, path in inputs.items() if path is not None}
        return cls(facts, who, read)

    @cached_property
    def key(self) -> str:
        """What differs if anything does that went into the result, or into what it was made from.

        So two results of one key have the same bytes, on the same machine.
        """
        made_from = {name: each.key or each.contents for name, each in self.inputs.items()}
        return digest([self.facts.digest, self.who, made_from])

    def manifest(self, device: str = "cpu") -> dict[str, Any]:
        """What the result's manifest says, besides the digests of its files."""
        return {
            **self.facts.data(),
            **self.who,
            "inputs": {name: each._asdict() for name, each in self.inputs.items()},
            "key": self.key,
            "ran_on": environment(device),
        }


def difference(wanted: Record, manifest: Mapping[str, Any]) -> str:
    """In what a result's manifest differs from what it should say, in words; "" for nothing."""
    expected = _plain({**wanted.facts.data(), **wanted.who})
    for name, value in expected.items():
        found = manifest.get(name)
        if name in {"weights", "model"}:
            value, found = _by_digests(value), _by_digests(found)
        if value != found:
            return "other code" if name == "code" else _words(name, found, value)
    inputs = manifest.get("inputs")
    for name, source in wanted.inputs.items():
        made = inputs.get(name) if isinstance(inputs, dict) else None
        if not isinstance(made, dict) or made.get("key") != source.key:
            return f"its {name} were made otherwise"
        if source.key is None and made.get("contents") != source.contents:
            return f"what is in its {name} has changed since"
    return "" if manifest.get("key") == wanted.key else "its manifest was changed"


_ABSENT = object()


def _words(name: str, found: Any, wanted: Any) -> str:
    """Where two values differ first."""
    if isinstance(found, list) and isinstance(wanted, list):
        found, wanted = (dict(enumerate(each, start=1)) for each in (found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            was, should = found.get(key, _ABSENT), wanted.get(key, _ABSENT)
            if was != should:
                return _words(f"{name}: {key}", was, should)
    return f"{name} was {_shown(found)}, not {_shown(wanted)}"


def _shown(value: Any, longest: int = 60) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _by_digests(value: Any) -> Any:
    """Facts about networks without the names of their files, which may be moved."""
    if not isinstance(value, dict):
        return value
    files = value.get("weights", value)
    sums = sorted(files) if isinstance(files, dict) else files
    return {**value, "weights": sums} if "weights" in value else {"weights": sums}


def _based_on(model: Model, cache: Path | None) -> dict[str, Any]:
    settings = model.model_dump(mode="json", exclude={"path", "revision"})
    return {**settings, "weights": named_digests(weight_files(model), cache)}


def named_digests(files: Iterable[WeightFile], cache: Path | None = None) -> dict[str, str]:
    """Names of weight files, which say no place, by their SHA-256."""
    named = {each.file: _name(each) for each in files}
    return dict(sorted((digest, named[file]) for file, digest in sha256_of(named, cache).items()))


def _name(weights: WeightFile) -> str:
    """A weight file's name; below a snapshot of the hub's cache, with the repository and commit."""
    found, file = weights.named, weights.file
    if found.parent.name == "snapshots":
        repository = found.parents[1].name.removeprefix("models--").replace("--", "/")
        return f"{repository}@{found.name}/{file.relative_to(found)}"
    place = without_places(str(found.absolute()))
    return place if file == found else f"{place}/{file.relative_to(found)}"


def without_places(value: Any) -> Any:
    """Plain data in which absolute paths are relative to this folder, or only a name."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    return _place(Path(value)) if isinstance(value, str) and os.path.isabs(value) else value


def _place(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def _plain(value: Any) -> Any:
    """Data as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))
