"""What there is: methods with their settings, and the config's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List every protection, purification, trainer, metric and face backend.

    Each comes with its settings, defaults, presets and source. In a config or on the command
    line, name a method to use its defaults, or write a spec: {method: aspl, budget: 8/255}.
    """
    from cloakbench.errors import CloakBenchError, nearest
    from cloakbench.experiment.catalogue import catalogue, print_catalogue, print_method

    entries = catalogue()
    if name is not None:
        known = {entry["name"] for entry in entries}
        entries = [entry for entry in entries if entry["name"] == name]
        if not entries:
            raise CloakBenchError(f"unknown method '{name}': {nearest(name, known)}")
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
    elif name is not None:
        for entry in entries:
            print_method(entry)
    else:
        print_catalogue(entries)


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default: print.")] = None,
) -> None:
    """Write the JSON schema of `config.yaml`, made from the registered methods."""
    from cloakbench.experiment.catalogue import config_schema
    from cloakbench.files.outputs import check_file
    from cloakbench.files.text import write_text

    text = json.dumps(config_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        check_file(out, option="--out")
        write_text(out, text)
