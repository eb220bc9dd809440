"""What a stage wrote is read as it was written, or refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Folders, smooth_photos

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import load_photos, photo_files, save_photos
from cloakbench.files.layout import prompt_folders
from cloakbench.files.outputs import MANIFEST, new_folder
from cloakbench.files.text import write_scores
from cloakbench.files.verified import beside, is_whole, sealed, verified
from cloakbench.models.spec import ModelSpec
from cloakbench.running.run import Run
from cloakbench.stages.purify import purify


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What a stage wrote: two folders of two photos."""
    with new_folder(tmp_path / "made", {"stage": "test"}) as folder:
        for name in ("set_A", "set_B"):
            (folder / name).mkdir()
            save_photos(smooth_photos(2, 0), folder / name)
    return tmp_path / "made"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda f: flip(f / "set_B" / "01.png"), r"set_B/01\.png: is damaged or was changed"),
    "a cut": (lambda f: (f / "set_B" / "02.png").write_bytes(b""), r"02\.png: is damaged"),
    "a loss": (lambda f: (f / "set_B" / "01.png").unlink(), r"01\.png: is missing"),
    "a guest": (
        lambda f: shutil.copy(f / "set_B" / "01.png", f / "set_B" / "03.png"),
        r"03\.png: was not written by CloakBench",
    ),
    "a swap": (
        lambda f: shutil.copy(f / "set_B" / "01.png", f / "set_B" / "02.png"),
        r"02\.png: is damaged or was changed",
    ),
    "an empty manifest": (lambda f: (f / MANIFEST).write_text(""), r"job\.json: is damaged"),
    "a foreign manifest": (lambda f: (f / MANIFEST).write_text("{}"), r"job\.json: is damaged"),
}


@pytest.fixture
def same_photos_differ(made: Path) -> None:
    a, b = ((made / "set_B" / name).read_bytes() for name in ("01.png", "02.png"))
    assert a != b


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("same_photos_differ")
def test_damage_is_named_with_what_to_do(made: Path, damage: str):
    spoil, message = DAMAGES[damage]
    assert len(load_photos(made / "set_B").names) == 2
    spoil(made)

    for read in (load_photos, photo_files, verified):
        with pytest.raises(CloakBenchError, match=message) as caught:
            read(made / "set_B")
        assert f"Delete the folder {made} and run" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not is_whole(made)


def test_a_part_is_read_though_another_is_damaged(made: Path):
    flip(made / "set_A" / "01.png")

    assert len(photo_files(made / "set_B")) == 2
    with pytest.raises(CloakBenchError, match=r"set_A/01\.png"):
        verified(made)


def test_a_users_own_folder_is_taken_as_it_is(tmp_path: Path, made: Path):
    own = made.parent / "photos"
    own.mkdir()
    save_photos(smooth_photos(2, 3), own)

    assert verified(own) == own
    flip(own / "01.png")
    assert len(photo_files(own)) == 2


def test_a_folder_that_lost_all_its_photos_is_no_empty_folder(made: Path):
    shutil.rmtree(made / "set_B")
    (made / "set_B").mkdir()

    with pytest.raises(CloakBenchError, match="is missing"):
        photo_files(made / "set_B")


def test_a_cell_that_lost_a_prompt_is_not_scored(made: Path):
    shutil.rmtree(made / "set_B")

    with pytest.raises(CloakBenchError, match=r"set_B/01\.png: is missing"):
        prompt_folders(made)


def test_following_the_advice_leads_to_the_right_photos(
    folders: Folders, tiny_model: ModelSpec, tmp_path: Path
):
    out = tmp_path / "purified"

    def run() -> dict[str, bytes]:
        purify("jpeg", model=tiny_model, photos=folders.instance, run=Run(out, "anna"))
        return {path.name: path.read_bytes() for path in photo_files(out)}

    right = run()
    flip(out / "01.png")
    with pytest.raises(CloakBenchError, match="Delete the folder"):
        photo_files(out)
    shutil.rmtree(out)

    assert run() == right


def test_what_was_kept_of_a_finished_job_is_put_back_whole_or_made_anew(
    folders: Folders, tiny_model: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """As when Snakemake was killed before it saw the job end, and the disk then lost a bit."""
    out, scratch = tmp_path / "purified", tmp_path / "scratch"

    def run() -> dict[str, bytes]:
        job = Run(out, "anna", scratch=scratch)
        purify("jpeg", model=tiny_model, photos=folders.instance, run=job)
        return {path.name: path.read_bytes() for path in photo_files(out)}

    right = run()
    shutil.rmtree(out)
    assert run() == right
    [kept] = scratch.glob("*/*.kept")
    [photo] = kept.glob("01.png")
    shutil.rmtree(out)
    flip(photo)

    assert run() == right
    assert "is damaged; the work is done again" in caplog.text


@pytest.mark.parametrize("damage", ["a digit", "a lost row", "no seal", "another's seal"])
def test_a_sealed_file_is_read_as_it_was_written_or_refused(tmp_path: Path, damage: str):
    """A digit of a score is a wrong score, and looks like a right one."""
    scores = tmp_path / "dreambooth.csv"
    frame = pd.DataFrame({"image": ["000", "001"], "brisque": [57.0329, 12.5]})
    write_scores(frame, scores, {"stage": "score"})
    assert sealed(scores) == scores
    match damage:
        case "a digit":
            scores.write_text(scores.read_text().replace("57.0329", "5"))
        case "a lost row":
            scores.write_text(scores.read_text().replace("001,12.5\n", ""))
        case "no seal":
            beside(scores).unlink()
        case "another's seal":
            write_scores(frame[:1], tmp_path / "other.csv", {"stage": "score"})
            shutil.copy(beside(tmp_path / "other.csv"), beside(scores))

    with pytest.raises(CloakBenchError, match=r"dreambooth\.csv: is not as it was written"):
        sealed(scores)
