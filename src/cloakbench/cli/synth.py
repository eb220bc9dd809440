"""Portraits of people who do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write; a folder per identity.")],
    identities: Annotated[int, typer.Option(help="How many people.", min=1)] = 10,
    portraits: Annotated[int, typer.Option(help="Portraits of each.", min=1)] = 12,
    size: Annotated[int, typer.Option(help="Side of the portraits [px].", min=32, max=512)] = 128,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first person.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    sets: Annotated[
        bool, typer.Option(help="Split each person's portraits into set_A, set_B, set_C.")
    ] = True,
) -> None:
    """Render portraits of people who do not exist, with their attributes.

    Run the same command again to resume. Needs the extra packages: pip install "cloakbench[synth]".

    Example: cloakbench synth portraits --identities 20 --workers 2
    """
    from cloakbench.files.layout import SETS
    from cloakbench.miniature.synth.generate import generate

    generate(
        out,
        identities,
        portraits,
        size=size,
        seed=seed,
        first=first,
        workers=workers,
        sets=SETS if sets else None,
    )
