"""Datasets: three sets per identity, checked before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.data import Dataset, prepare

SHARED = Path(__file__).resolve().parents[2] / "shared"


def add(folder: Path, *names: str, size: tuple[int, int] = (64, 64)) -> Path:
    """Photos of which no two are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        blue = 9 * len(list(folder.parent.rglob("*.*")))
        Image.new("RGB", size, (120, 90, blue)).save(folder / name)
    return folder


def names(sets: dict[str, list[Path]]) -> dict[str, list[str]]:
    return {name: [path.name for path in files] for name, files in sets.items()}


def test_a_group_is_a_list_of_people_in_groups_json(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "people")
    people = Dataset(path=tmp_path / "people")
    written = {"tuning": {"people": ["bert"]}, "nobody": {}, "training": "elsewhere"}
    (people.folder / "groups.json").write_text(json.dumps(written))

    assert people.group("tuning") == ["bert"]
    assert people.identities() == ["anna", "bert"]
    for name, line in {
        "tunning": r"groups\.json: unknown group 'tunning': .*tuning",
        "training": "unknown group 'training'",
        "nobody": "group 'nobody' lists no people. Choose another.",
    }.items():
        with pytest.raises(CloakBenchError, match=line):
            people.group(name)


def test_identities_are_the_visible_folders_in_order(dataset, tmp_path):
    assert Dataset(path=dataset).identities() == ["anna", "bert"]

    for name in ("b", "a", ".cache", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / "readme.txt").write_text("")
    assert Dataset(path=tmp_path).identities() == ["a", "b"]


def test_a_missing_or_empty_dataset_is_named(tmp_path):
    with pytest.raises(CloakBenchError, match=r"dataset .*gone: no such folder"):
        Dataset(path=tmp_path / "gone").identities()
    with pytest.raises(CloakBenchError, match=r"no identities\. Add a folder for each"):
        Dataset(path=tmp_path).identities()


def test_an_unknown_identity_is_answered_with_the_nearest(dataset):
    with pytest.raises(CloakBenchError, match=r"unknown identity 'ana' .*did you mean 'anna'\?"):
        Dataset(path=dataset).sets("ana")


@pytest.mark.parametrize("name", ["anna/", "../anna", ".anna"])
def test_an_identity_is_named_as_its_folder_is(name, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "dataset")
    shutil.copytree(dataset / "anna", tmp_path / "dataset" / ".anna")

    with pytest.raises(CloakBenchError, match=r"unknown identity .*did you mean 'anna'"):
        Dataset(path=tmp_path / "dataset").sets(name)


@pytest.mark.parametrize("name", ["{anna}", "anna\n"])
def test_names_that_snakemake_would_not_take_literally_are_refused(name, dataset, tmp_path):
    shutil.copytree(dataset / "anna", tmp_path / name)
    with pytest.raises(CloakBenchError, match="Call it"):
        Dataset(path=tmp_path).sets(name)


def test_a_link_to_a_photo_that_is_gone_is_named(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path, dirs_exist_ok=True)
    (tmp_path / "anna" / "set_B" / "03.png").symlink_to("gone.png")

    with pytest.raises(CloakBenchError, match=r"03\.png: is a link to gone\.png"):
        Dataset(path=tmp_path).sets("anna")


def test_the_three_sets_are_taken_as_they_are(tmp_path):
    add(tmp_path / "anna" / "set_A", "2.png", "1.jpg")
    add(tmp_path / "anna" / "set_B", "x.png", "y.png", "z.png")
    add(tmp_path / "anna" / "set_C", "p.png", "q.png")

    assert names(Dataset(path=tmp_path).sets("anna")) == {
        "set_A": ["1.jpg", "2.png"],
        "set_B": ["x.png", "y.png", "z.png"],
        "set_C": ["p.png", "q.png"],
    }


@pytest.mark.parametrize(("count", "sizes"), [(6, [2, 2, 2]), (7, [2, 2, 3]), (8, [2, 2, 4])])
def test_a_flat_folder_is_split_in_the_order_of_its_names(count, sizes, tmp_path):
    photos = [f"{number:02d}.png" for number in range(count)]
    add(tmp_path / "anna", *photos)
    (tmp_path / "anna" / "attributes.json").write_text("{}")

    sets = names(Dataset(path=tmp_path).sets("anna"))

    assert [len(files) for files in sets.values()] == sizes
    assert [name for files in sets.values() for name in files] == photos


def test_a_flat_folder_drops_no_file_quietly(tmp_path):
    add(tmp_path / "anna", *(f"{number}.png" for number in range(6)))
    (tmp_path / "anna" / "7.raw").write_bytes(b"a camera's photo")

    with pytest.raises(CloakBenchError, match=r"7\.raw: not a photo"):
        Dataset(path=tmp_path).sets("anna")


@pytest.mark.parametrize("missing", ["set_A", "set_B", "set_C"])
def test_a_missing_set_is_named(missing, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "anna" / missing)

    with pytest.raises(CloakBenchError, match=rf"anna: the folder {missing} is missing"):
        Dataset(path=tmp_path / "d").sets("anna")


@pytest.mark.parametrize("short", ["set_A", "set_B", "set_C"])
def test_fewer_than_two_photos_in_a_set_are_refused(short, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    (tmp_path / "d" / "anna" / short / "02.png").unlink()

    with pytest.raises(CloakBenchError, match=rf"{short}: 1 photo, at least 2 are needed"):
        Dataset(path=tmp_path / "d").sets("anna")


def test_a_flat_folder_of_five_is_too_small(tmp_path):
    add(tmp_path / "anna", *(f"{number}.png" for number in range(5)))

    with pytest.raises(CloakBenchError, match=r"anna \(set_A\): 1 photo"):
        Dataset(path=tmp_path).sets("anna")


def test_prepared_photos_are_square_numbered_pngs_and_the_originals_stay(tmp_path):
    folder = tmp_path / "d" / "anna"
    for photo_set in ("set_A", "set_B", "set_C"):
        add(folder / photo_set, "late.jpg", "early.bmp", size=(120, 70))
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}

    prepare(Dataset(path=tmp_path / "d"), "anna", tmp_path / "out", 64)

    for photo_set in ("set_A", "set_B", "set_C"):
        files = sorted((tmp_path / "out" / photo_set).iterdir())
        assert [path.name for path in files] == ["01.png", "02.png"]
        assert {Image.open(path).size for path in files} == {(64, 64)}
    manifest = json.loads((tmp_path / "out" / "job.json").read_text())
    assert manifest["photos"]["set_B"] == ["early.bmp", "late.jpg"]
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.parametrize("twin", ["set_A/01.png", "set_B/02.png"])
def test_two_sets_that_share_a_photo_are_refused_by_its_names(twin, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    anna = tmp_path / "d" / "anna"
    shutil.copy(anna / twin, anna / "set_C" / "03.png")

    match = rf"^\S+/anna/set_C/03\.png: is the same photo as \S+/anna/{twin}, but .* remove one\.$"
    with pytest.raises(CloakBenchError, match=match):
        prepare(Dataset(path=tmp_path / "d"), "anna", tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()


def test_a_photo_that_is_twice_in_one_set_is_taken_as_it_is(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    shutil.copy(tmp_path / "d/anna/set_C/01.png", tmp_path / "d/anna/set_C/03.png")

    prepare(Dataset(path=tmp_path / "d"), "anna", tmp_path / "out", 64)
    assert len(list((tmp_path / "out" / "set_C").iterdir())) == 3


def test_a_corrupt_photo_is_named_and_no_output_appears(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    photo = tmp_path / "d" / "anna" / "set_C" / "02.png"
    photo.write_bytes(photo.read_bytes()[:200])

    with pytest.raises(CloakBenchError, match=r"set_C/02\.png: is corrupt or truncated"):
        prepare(Dataset(path=tmp_path / "d"), "anna", tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_photographs_of_a_real_person_can_be_prepared(tmp_path):
    photos = SHARED / "faces"
    identities = [p for p in photos.iterdir() if p.is_dir()] if photos.is_dir() else []
    if not identities:
        pytest.skip(f"no photographs in {photos}")
    flat = tmp_path / "d" / "person"
    flat.mkdir(parents=True)
    suffixes = {".jpg", ".png"}
    files = [p for p in sorted(identities[0].rglob("*")) if p.suffix.lower() in suffixes][:6]
    for path in files:
        shutil.copy(path, flat)

    prepare(Dataset(path=tmp_path / "d"), "person", tmp_path / "out", 96)

    arrays = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert len(arrays) == 6
    assert {array.shape for array in arrays} == {(96, 96, 3)}
    assert min(array.std() for array in arrays) > 10
