"""What made a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def manifest(
    folder: Annotated[Path, typer.Argument(help="A folder that a stage wrote.")],
) -> None:
    """Print what made a folder: stage, settings, seed, and the SHA-256 of its files, as JSON.

    Example: cloakbench manifest protected
    """
    from cloakbench.files.outputs import read_manifest

    typer.echo(read_manifest(folder), nl=False)
