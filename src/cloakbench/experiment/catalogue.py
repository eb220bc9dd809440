"""The catalogue of methods, read from the registries: for people, machines and the schema."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import Config
from cloakbench.experiment.experiment import REGISTRIES
from cloakbench.personalise import trainers
from cloakbench.protect import Protection, protections
from cloakbench.purify import purifiers
from cloakbench.registry import Method, Registry, weight_files
from cloakbench.score.base import Metric, metrics

NEEDS = {
    "gpu": "a network of its own, better on a GPU",
    "model": "the diffusion model, better on a GPU",
    "surrogate_images": "set_A, clean photos (--surrogate)",
    "class_images": "class images (--class-images)",
    "reference": "the people's faces (--references)",
    "original": "the photos as they were",
    "photos": "the person's clean photos (--photos)",
}
"""What methods can need beside photos, in words."""

BRIEFEST = 24  # characters that a part of a sentence has, to say something
CLAUSES = [re.compile(pattern) for pattern in ("; ", r": | \(", ",? which |, ")]

CONFIG_KEYS: dict[str, Registry[Any]] = {
    "protections": protections,
    "purifications": purifiers,
    "trainers": trainers,
    "metrics": metrics,
}


def catalogue() -> list[dict[str, Any]]:
    """Every registered method as plain data."""
    return [describe(registry.kind, method) for registry in REGISTRIES for method in registry]


def describe(kind: str, method: type[Method]) -> dict[str, Any]:
    """One method: what it is, its settings with defaults and descriptions, presets and source."""
    defaults = method().spec() if _complete(method) else {}
    return {
        "kind": kind,
        "name": method.name,
        "summary": method.summary(),
        "source": method.source,
        "settings": [
            {
                "name": name,
                "default": defaults.get(name),
                "description": field.description or "",
                "required": field.is_required(),
            }
            for name, field in method.model_fields.items()
        ],
        "presets": {
            name: dict(changes) for name, changes in {**method.presets, **method.variants}.items()
        },
        "steps": _steps(method),
        "needs": [need for need in NEEDS if need in _needs(method)],
        "weights": _weights(method),
    }


def config_schema() -> dict[str, Any]:
    """JSON schema of an experiment's config, in which every method's settings are spelt out."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "CloakBench experiment"
    for key, registry in CONFIG_KEYS.items():
        schema["properties"][key]["items"] = {
            "anyOf": [
                {"enum": registry.names()},
                *([{"type": "array"}] if registry is purifiers else []),
                *(_entry_schema(method) for method in registry),
            ]
        }
    return schema


def print_catalogue(entries: Iterable[dict[str, Any]], width: int = 80) -> None:
    """A line for each method, by what it is, no longer than `width`."""
    entries = list(entries)
    longest = max(len(entry["name"]) for entry in entries)
    for kind, same in itertools.groupby(entries, lambda entry: entry["kind"]):
        print(f"{kind}s")
        for entry in same:
            print(f"  {entry['name']:<{longest}}  {_brief(entry['summary'], width - longest - 4)}")
    print("\n`cloakbench methods NAME` shows one in full, `--json` is for machines.")


def _brief(summary: str, room: int) -> str:
    """As many of a sentence's first clauses as there is room for, of a long clause what fits."""
    if len(summary) <= room:
        return summary
    for clause in CLAUSES:
        for end in (match.start() for match in clause.finditer(summary, BRIEFEST, room + 1)):
            if all(summary.count(a, 0, end) == summary.count(b, 0, end) for a, b in ("()", "[]")):
                return summary[:end]
    return textwrap.shorten(summary, room, placeholder=" ...")


def print_method(entry: dict[str, Any]) -> None:
    """One method in full."""
    console = Console()
    console.print(f"[bold]{entry['name']}[/] ({entry['kind']}): {escape(entry['summary'])}")
    console.print(f"Source: {escape(entry['source'])}")
    needs = "; ".join(NEEDS[need] for need in entry["needs"])
    console.print(f"Needs: {escape(needs or 'no diffusion model and no other images')}")
    if entry["weights"]:
        console.print(f"Weights: {escape(entry['weights'])}", soft_wrap=True)
    console.print()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("setting", "default", "meaning"):
        table.add_column(heading)
    for setting in entry["settings"]:
        default = "required" if setting["required"] else written(setting["default"])
        table.add_row(setting["name"], escape(default), escape(setting["description"]))
    console.print(table)
    for name, changes in entry["presets"].items():
        share = share_of_steps(entry, name)
        console.print(
            f"preset [bold]{name}[/]{share}: {escape(written(changes or 'the defaults'))}"
        )


def written(value: Any) -> str:
    """A setting's value, or several by their keys, as a config or `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def share_of_steps(entry: dict[str, Any], preset: str) -> str:
    """How much of a protection's default steps a preset runs, in parentheses; nothing of others."""
    share = entry["steps"].get(preset) if entry["steps"] else None
    return "" if share is None else f" ({share:.0%} of the default steps)"


def _needs(method: type[Method]) -> frozenset[str]:
    """What a method uses at its defaults, and what a metric compares with."""
    uses = method().uses if _complete(method) else method.needs
    return uses | method.reads if issubclass(method, Metric) else uses


def _steps(method: type[Method]) -> dict[str, float]:
    """The share of its default gradient steps that each preset of a protection runs, if any."""
    if not issubclass(method, Protection) or not _complete(method):
        return {}
    shares = {name: method(**changes).steps_share for name, changes in method.presets.items()}
    return {name: share for name, share in shares.items() if share is not None}


def _weights(method: type[Method]) -> str:
    """The weights of its own that it reads at its defaults, or which of them are missing."""
    if not _complete(method):
        return ""
    try:
        found = {each.named.name for each in weight_files(method())}
    except CloakBenchError as error:
        return "; ".join(error.problems)
    return f"here: {', '.join(sorted(found))}" if found else ""


def _complete(method: type[Method]) -> bool:
    return not any(field.is_required() for field in method.model_fields.values())


def _entry_schema(method: type[Method]) -> dict[str, Any]:
    properties = method.model_json_schema()["properties"]
    return {
        "type": "object",
        "description": inspect.cleandoc(method.__doc__ or ""),
        "properties": {
            "name": {"type": "string", "description": "label in paths and tables"},
            "method": {"const": method.name},
            "preset": {"enum": sorted({*method.presets, *method.variants})},
            **properties,
        },
        "required": ["method"],
        "additionalProperties": False,
    }
