"""Looking at portraits: do face backends see people in them, and do we?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloakbench.cli.results import ForceOption, check_new_file


def faces(
    folder: Annotated[Path, typer.Argument(help="Folder with a folder of photos per identity.")],
    backend: Annotated[
        str, typer.Option("--faces", help="A face backend's name, or its spec as JSON.")
    ] = "dlib",
) -> None:
    """Measure detection and same/different-identity verification on portraits.

    Example: cloakbench faces resources/identities --faces '{"method": "insightface", "weights":
    "weights"}'
    """
    from cloakbench.cli.stages import parse_spec
    from cloakbench.faces import backends
    from cloakbench.faces.verification import measure_faces

    chosen = backends.build(parse_spec(backend))
    chosen.check()
    for name, value in measure_faces(folder, chosen).items():
        typer.echo(
            f"{name:>10}: {value:.4f}" if isinstance(value, float) else f"{name:>10}: {value}"
        )


def sheet(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of photos, a row each; or one with a folder for each row."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")],
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 12,
    rows: Annotated[int, typer.Option(help="Rows at most.", min=1)] = 12,
    force: ForceOption = False,
) -> None:
    """Tile pictures into a contact sheet, a row per folder.

    Example: cloakbench sheet photos/set_B protected purified -o sheet.png --columns 4
    """
    from cloakbench.report.sheet import contact_sheet, folder_rows

    check_new_file(out, force, *folders, option="--out")
    contact_sheet(dict(list(folder_rows(folders).items())[:rows]), out, columns)
    typer.echo(f"→ {out}")
