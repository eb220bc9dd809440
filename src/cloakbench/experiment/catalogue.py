"""The catalogue of methods, read from the registries: for people, machines and the schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloakbench.experiment.config import Config
from cloakbench.faces import backends
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.registry import Method, Registry
from cloakbench.score.base import metrics

REGISTRIES: tuple[Registry[Any], ...] = (protections, purifiers, trainers, metrics, backends)
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
        "presets": {name: dict(changes) for name, changes in method.presets.items()},
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


def print_catalogue(entries: Iterable[dict[str, Any]]) -> None:
    """One table of all methods."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("kind", "name", "what it does", "settings (default)"):
        table.add_column(heading)
    for entry in entries:
        settings = ", ".join(f"{s['name']} ({s['default']})" for s in entry["settings"])
        summary = escape(entry["summary"])
        table.add_row(entry["kind"], f"[bold]{entry['name']}[/]", summary, escape(settings))
    console = Console()
    console.print(table)
    console.print("\n`cloakbench methods NAME` shows one in full, `--json` is for machines.")


def print_method(entry: dict[str, Any]) -> None:
    """One method in full."""
    console = Console()
    console.print(f"[bold]{entry['name']}[/] ({entry['kind']}): {escape(entry['summary'])}")
    console.print(f"Source: {escape(entry['source'])}\n")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("setting", "default", "meaning"):
        table.add_column(heading)
    for setting in entry["settings"]:
        default = "required" if setting["required"] else str(setting["default"])
        table.add_row(setting["name"], escape(default), escape(setting["description"]))
    console.print(table)
    for name, changes in entry["presets"].items():
        console.print(f"preset [bold]{name}[/]: {escape(str(changes or 'the defaults'))}")


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
            "preset": {"enum": sorted(method.presets)},
            **properties,
        },
        "required": ["method"],
        "additionalProperties": False,
    }
