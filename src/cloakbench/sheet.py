"""Contact sheets: a row of pictures per folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from cloakbench.errors import CloakBenchError


def contact_sheet(folder: Path, out: Path, columns: int, rows: int) -> None:
    """Tile the first PNG files of the first subfolders of `folder`, a row per subfolder.

    All pictures must share the first one's size.

    Raises:
        CloakBenchError: there are no pictures.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [sorted(path.rglob("*.png"))[:columns] for path in folders]
    grid = [row for row in files if row][:rows]
    if not grid:
        raise CloakBenchError(f"{folder}: no folders of PNG files. Check the path.")
    with Image.open(grid[0][0]) as first:
        width, height = first.size
    sheet = Image.new("RGB", (width * columns, height * len(grid)), "white")
    for y, row in enumerate(grid):
        for x, path in enumerate(row):
            with Image.open(path) as picture:
                sheet.paste(picture, (x * width, y * height))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
