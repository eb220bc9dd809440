"""Contact sheets show the pictures that are there."""

from __future__ import annotations

import pytest
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.sheet import contact_sheet


def test_each_folder_becomes_a_row(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), colour).save(tmp_path / name / "1.png")

    contact_sheet(tmp_path, tmp_path / "out.png", columns=2, rows=5)

    sheet = Image.open(tmp_path / "out.png")
    assert sheet.size == (8, 8)
    corners = [sheet.getpixel(place) for place in ((0, 0), (0, 7), (7, 0))]
    assert corners == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(CloakBenchError, match="no folders of PNG"):
        contact_sheet(tmp_path, tmp_path / "out.png", columns=2, rows=5)
