"""What there is: methods with their settings, and the config's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cloakbench.cli.results import ForceOption, check_new_file


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List every protection, purification, trainer, metric and face backend, a line each.

    With NAME or `--json` they come with settings, defaults, presets, source and what they need. In
    a config or on the command line, name a method to use its defaults, or write a spec:
    {method: aspl, budget: 8/255}.

    Example: cloakbench methods aspl
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
    force: ForceOption = False,
) -> None:
    """Write the JSON schema of `config.yaml`, made from the registered methods, for editors.

    Example: cloakbench schema --out config.schema.json
    """
    from cloakbench.experiment.catalogue import config_schema
    from cloakbench.files.text import write_text

    text = json.dumps(config_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        check_new_file(out, force, option="--out")
        write_text(out, text)
        typer.echo(f"→ {out}")
