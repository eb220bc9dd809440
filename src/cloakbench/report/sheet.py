"""Contact sheets: rows of pictures with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from cloakbench.errors import CloakBenchError
from cloakbench.files.bundle import bundled
from cloakbench.files.images import is_photo, photo_size, read_photo
from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell, Layout, prompt_folders
from cloakbench.files.outputs import new_file

FONT_SIZE, MARGIN = 12, 6  # px
LARGEST = 16_383  # px, of WebP


def folder_rows(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The photos of every folder, or of its subfolders, by its name.

    Raises:
        CloakBenchError: a folder is missing, or there are no photos.
    """
    rows: dict[str, list[Path]] = {}
    for named in folders:
        if not (folder := bundled(named)).is_dir():
            what = "is a file; name its folder" if folder.exists() else "no such folder"
            raise CloakBenchError(f"{folder}: {what}. Check the path.")
        if own := _photos(folder.iterdir()):
            rows[str(named)] = own
            continue
        within = sorted(path for path in folder.iterdir() if path.is_dir())
        rows |= {path.name: found for path in within if (found := _photos(path.rglob("*")))}
    if not rows:
        raise CloakBenchError(
            f"{', '.join(map(str, folders))}: no folders of photos. Check the path."
        )
    return rows


def _photos(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if is_photo(path))


def cell_rows(
    cells: Sequence[Cell], layout: Layout, columns: int, learnt: bool = False
) -> dict[str, list[Path]]:
    """The photos of one identity, then samples of each of its cells, in equal parts per prompt.

    Rows are called by the labels in which the cells differ.

    learnt: after the photos also what models learnt of them, protected and purified, if it differs.
    """
    varying = [name for name in CELL_LABELS if len({getattr(cell, name) for cell in cells}) > 1]
    rows = {"photos": _pngs(layout.data(cells[0]) / "set_B")}
    originals = [read_photo(path) for path in rows["photos"]]
    for cell in cells if learnt else ():
        changed = [name for name in varying if name in PHOTO_LABELS]
        label = " / ".join(["photos", *(getattr(cell, name) for name in changed)])
        own = _pngs(layout.purified(cell))
        if label not in rows and list(map(read_photo, own)) != originals:
            rows[label] = own
    for cell in cells:
        prompts = prompt_folders(layout.generated(cell))
        share = -(-columns // len(prompts))
        label = " / ".join(getattr(cell, name) for name in varying) or "samples"
        rows[label] = [path for folder in prompts for path in _pngs(folder)[:share]]
    return rows


def _pngs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def contact_sheet(rows: Mapping[str, Sequence[Path]], out: Path, columns: int) -> None:
    """Tile the first pictures of every row beside its label. All are fitted into the first one's
    size.

    out: a file of any of Pillow's formats; WebP takes an eighth of PNG's space.

    Raises:
        CloakBenchError: Pillow knows no format of that name, or has no room for so much.
    """
    if (kind := Image.registered_extensions().get(out.suffix.lower())) is None:
        raise CloakBenchError(f"{out}: no kind of picture. Name it .png, .webp or .jpg.")
    font = ImageFont.load_default(FONT_SIZE)
    left = 2 * MARGIN + int(max(font.getlength(label) for label in rows))
    width, height = photo_size(next(iter(rows.values()))[0])
    if max(size := (left + width * columns, height * len(rows))) > LARGEST:
        raise CloakBenchError(
            f"{out}: would be {size[0]}x{size[1]} px, and pictures have up to {LARGEST}. Choose "
            "fewer columns or rows."
        )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for y, (label, files) in enumerate(rows.items()):
        middle = (MARGIN, y * height + height // 2)
        draw.text(middle, label, fill="black", font=font, anchor="lm")
        for x, path in enumerate(files[:columns]):
            fitted = ImageOps.pad(read_photo(path), (width, height), color="white")
            sheet.paste(fitted, (left + x * width, y * height))
    with new_file(out) as part:
        sheet.save(part, kind, optimize=True, quality=90)
