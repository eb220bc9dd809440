"""What made a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def manifest(
    result: Annotated[Path, typer.Argument(help="A folder, or a table, that a stage wrote.")],
) -> None:
    """Print all that made a folder or file: stage, settings, prompts, seed, digests of code,
    weights, inputs and outputs, versions and machine, as JSON.

    Example: cloakbench manifest protected
    """
    from cloakbench.files.verified import read_manifest

    typer.echo(read_manifest(result), nl=False)
