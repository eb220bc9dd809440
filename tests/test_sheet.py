"""Contact sheets show the pictures that are there, with their labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.files.layout import Cell, Layout
from cloakbench.report.sheet import cell_rows, contact_sheet, folder_rows

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(path)


def test_each_folder_becomes_a_labelled_row(tmp_path):
    picture(tmp_path / "a" / "1.png", RED)
    picture(tmp_path / "b" / "1.png", BLUE)

    contact_sheet(folder_rows([tmp_path]), tmp_path / "out.png", columns=2)

    sheet = Image.open(tmp_path / "out.png")
    left = sheet.width - 80
    assert sheet.height == 80
    assert [sheet.getpixel((left, y)) for y in (0, 79)] == [RED, BLUE]
    assert sheet.getpixel((left + 40, 0)) == WHITE  # no second picture
    for top in (0, 40):
        label = sheet.crop((0, top, left, top + 40)).convert("L")
        assert label.getextrema()[0] < 128  # something is written


def test_photos_of_any_format_have_a_row(tmp_path):
    picture(tmp_path / "a" / "1.jpg", RED)
    (tmp_path / "a" / "attributes.json").write_text("{}")
    (tmp_path / "nobody").mkdir()

    assert folder_rows([tmp_path]) == {"a": [tmp_path / "a" / "1.jpg"]}


def test_photos_stand_upright_and_one_that_is_broken_is_named(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    (tmp_path / "a").mkdir()
    Image.new("RGB", (80, 40), RED).save(tmp_path / "a" / "1.jpg", exif=turned)

    contact_sheet(folder_rows([tmp_path]), tmp_path / "out.png", columns=1)

    assert Image.open(tmp_path / "out.png").height == 80
    (tmp_path / "a" / "1.jpg").write_bytes(b"no photo")
    with pytest.raises(CloakBenchError, match=r"1\.jpg: is not an image"):
        contact_sheet(folder_rows([tmp_path / "a"]), tmp_path / "out.png", columns=1)


def test_pictures_of_other_sizes_are_fitted_whole_into_the_firsts(tmp_path):
    picture(tmp_path / "a" / "1.png", RED)
    Image.new("RGB", (160, 80), BLUE).save(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"a file manager's")

    contact_sheet(folder_rows([tmp_path]), tmp_path / "out.png", columns=2)

    sheet = Image.open(tmp_path / "out.png")
    right = sheet.width - 40
    assert sheet.height == 40
    found = [sheet.getpixel((right + x, y)) for x in (0, 39) for y in (0, 20, 39)]
    assert found == [WHITE, BLUE, WHITE] * 2


def test_photos_and_what_was_made_of_them_are_laid_side_by_side(tmp_path):
    """By hand they are in folders that have nothing in common."""
    places = [tmp_path / "photos" / "set_B", tmp_path / "protected"]
    for place in places:
        picture(place / "01.png", RED)

    assert folder_rows(places) == {str(place): [place / "01.png"] for place in places}


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(CloakBenchError, match="no folders of photos"):
        folder_rows([tmp_path])


def test_a_sheet_of_cells_has_the_photos_and_every_prompt(tmp_path):
    layout, first = Layout(tmp_path), Cell("m", "d", "anna", "0", "aspl", "none", "dreambooth")
    cells = [first, replace(first, trainer="cdl")]
    picture(layout.data(first) / "set_B" / "0.png", RED)
    for cell in cells:
        for prompt in ("dslr", "photo"):
            for index in range(3):
                picture(layout.generated(cell) / prompt / f"{index}.png", BLUE)

    rows = cell_rows(cells, layout, columns=4)

    assert list(rows) == ["photos", "dreambooth", "cdl"]
    for protection, purification in (("aspl", "none"), ("aspl", "jpeg"), ("clean", "none")):
        cells.append(replace(first, protection=protection, purification=purification))
        picture(layout.purified(cells[-1]) / "0.png", RED if protection == "clean" else BLUE)
        picture(layout.generated(cells[-1]) / "photo" / "0.png", BLUE)
    learnt = cell_rows(cells, layout, columns=4, learnt=True)
    assert [name for name in learnt if "photos" in name] == [
        *("photos", "photos / aspl / none", "photos / aspl / jpeg")
    ]
    assert learnt["photos / aspl / jpeg"] == [layout.purified(cells[3]) / "0.png"]
    shown = [(path.parent.name, path.stem) for path in rows["cdl"]]
    assert shown == [("dslr", "0"), ("dslr", "1"), ("photo", "0"), ("photo", "1")]
