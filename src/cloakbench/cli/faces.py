"""Looking at portraits: do face backends see people in them, and do we?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def faces(
    folder: Annotated[Path, typer.Argument(help="Folder with a folder of PNG files per identity.")],
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
    folder: Annotated[Path, typer.Argument(help="Folder with a folder of PNG files per row.")],
    out: Annotated[Path, typer.Argument(help="Picture to write.")],
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 12,
    rows: Annotated[int, typer.Option(help="Rows.", min=1)] = 12,
) -> None:
    """Tile pictures into a contact sheet, a row per subfolder.

    Example: cloakbench sheet resources/identities docs/identities.png --columns 8 --rows 6
    """
    from cloakbench.files.outputs import check_file
    from cloakbench.report.sheet import contact_sheet, folder_rows

    check_file(out, folder, option="picture")
    contact_sheet(dict(list(folder_rows(folder).items())[:rows]), out, columns)
