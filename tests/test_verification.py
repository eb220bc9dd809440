"""Verification on embeddings whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from cloakbench.errors import CloakBenchError
from cloakbench.faces import backends
from cloakbench.faces.verification import measure_faces, verification


def _at(*degrees: float) -> list[np.ndarray | None]:
    return [np.array([np.cos(a), np.sin(a)]) * 3 for a in np.radians(degrees)]


def test_two_clear_clusters_are_told_apart():
    result = verification(["a", "a", "b", "b"], _at(0, 10, 90, 100))
    assert result["accuracy"] == 1
    assert result["same"] == pytest.approx(np.cos(np.radians(10)))


def test_people_who_look_least_like_themselves_score_like_guessing():
    """The best threshold calls all pairs the same person, which is wrong for one kind of two."""
    result = verification(["a", "b", "a", "b"], _at(0, 90, 180, 270))
    expected = {"accuracy": 0.5, "threshold": -1, "same": -1, "different": 0}
    assert result == pytest.approx(expected)


def test_both_kinds_of_pairs_weigh_alike():
    """Two same pairs at 90 degrees, of four different ones three are nearer and one is not."""
    result = verification(["a", "b", "a", "b"], _at(0, 5, 90, 95))
    assert result["accuracy"] == (1 + 1 / 4) / 2


@pytest.mark.parametrize("order", ["aabb", "abab"])
def test_equal_faces_cannot_be_told_apart(order):
    assert verification(list(order), _at(0, 0, 0, 0))["accuracy"] == 0.5


def test_missing_faces_are_left_out():
    vectors = _at(0, 10, 90, 100)
    with_gap = verification(["a", "a", "b", "b", "b"], [*vectors, None])
    assert with_gap == verification(["a", "a", "b", "b"], vectors)


def test_one_identity_alone_has_no_accuracy():
    assert verification(["a", "a"], _at(0, 10)) == {}


def test_a_photo_that_is_broken_is_named(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "1.png").write_bytes(b"no photo")

    with pytest.raises(CloakBenchError, match=r"1\.png: is not an image"):
        measure_faces(tmp_path, backends.build("dlib"))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(CloakBenchError, match="no folders of portraits"):
        measure_faces(tmp_path, backends.build("dlib"))
