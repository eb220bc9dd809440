"""Synthetic portraits: determinism, attributes, captions, resume, and the bundled identities."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.miniature import synth
from cloakbench.miniature.synth import palette, people, rays

RESOURCES = Path(__file__).parents[1] / "resources" / "identities"
SETS = ("set_A", "set_B", "set_C")
MISSING = [name for name in ("anny", "embreex") if importlib.util.find_spec(name) is None]
needs_synth = pytest.mark.skipif(
    bool(MISSING), reason=f'{MISSING} not installed: pip install "cloakbench[synth]"'
)


def _photograph(seed: int, identity: int, index: int, size: int = 48) -> bytes:
    person, shot = synth.portrait(seed, identity, index)
    return synth.photograph(synth.render(person, shot, size), size, shot)


def _pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


@needs_synth
def test_same_seed_gives_the_same_bytes() -> None:
    first = _photograph(3, 0, 1)
    _photograph(3, 1, 0)  # another person in between must leave no trace
    assert _pixels(first).shape == (48, 48, 3)
    assert first == _photograph(3, 0, 1)


@needs_synth
def test_other_portraits_and_other_people_look_different() -> None:
    first = _pixels(_photograph(3, 0, 0)).astype(int)
    for other in (_photograph(3, 0, 1), _photograph(3, 1, 0), _photograph(4, 0, 0)):
        assert np.abs(first - _pixels(other)).mean() > 5


@needs_synth
def test_the_scene_does_not_depend_on_the_resolution() -> None:
    person, shot = synth.portrait(3, 2, 0)
    lights = (synth.render(person, shot, size) for size in (48, 192))
    small, large = (x.reshape(48, len(x) // 48, 48, -1, 3).mean((1, 3)) for x in lights)
    assert np.abs(small - large).mean() < 0.02


@needs_synth
def test_more_light_is_less_noise() -> None:
    """Of a grey wall at one, a hundredth of the light: shot noise falls with its root."""
    _, shot = synth.portrait(3, 0, 0)
    grey = np.full((144, 144, 3), 0.5, np.float32)
    bright, dark = (_pixels(synth.photograph(k * grey, 48, shot)) / 255 for k in (1, 0.01))
    assert 0 < bright.std() / bright.mean() < 0.5 * dark.std() / dark.mean()
    assert bright.std() < 0.03


@needs_synth
@pytest.mark.parametrize("size", [16, 513])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"32\.\.512 pixels"):
        synth.render(*synth.portrait(3, 0, 0), size)


@needs_synth
@pytest.mark.parametrize("seed", range(40))
def test_attributes_lie_in_their_ranges_and_survive_json(seed: int) -> None:
    person = people.sample_person(seed)
    shot = people.sample_shot(person, seed)
    record = json.loads(json.dumps([person.attributes(), shot.attributes()]))
    assert record[0]["skin_word"] in palette.SKIN_WORDS
    assert person == people.sample_person(seed)
    assert sum(person.ancestry) == pytest.approx(1)
    assert all(-1 <= value <= 1 for _, value in person.shape)
    assert all(0 < c < 1 for c in (*person.skin, *person.hair, *person.iris, *shot.cloth))
    assert person.gender == "man" or person.beard == "none"
    assert abs(shot.yaw) <= 0.6
    assert not shot.glasses or person.glasses != "none"


@needs_synth
def test_a_person_keeps_its_attributes_over_its_portraits() -> None:
    people_of = {synth.portrait(5, 7, i)[0] for i in range(4)}
    shots = {synth.portrait(5, 7, i)[1].yaw for i in range(4)}
    assert len(people_of) == 1
    assert len(shots) == 4


@needs_synth
def test_captions_name_only_what_is_there() -> None:
    rng = np.random.default_rng(0)
    texts = []
    for i in range(300):
        person, shot = synth.portrait(6, i, 0)
        text = synth.caption(person, shot, rng)
        texts.append(text)
        other = "man" if person.gender == "woman" else "woman"
        assert other not in text.replace(",", "").split()
        assert "glasses" not in text or shot.glasses
        assert "noisy" not in text
        assert not any(mark in text for mark in "{}[]_")
    assert len(set(texts)) > 150
    assert {"a photo of a person", "a photo of person"} <= set(texts)


@needs_synth
def test_captions_are_deterministic() -> None:
    person, shot = synth.portrait(6, 0, 0)
    one, two = (synth.caption(person, shot, np.random.default_rng(1)) for _ in range(2))
    assert one == two


@needs_synth
def test_a_stopped_run_resumes_with_equal_bytes(tmp_path: Path) -> None:
    def run(workers: int = 1) -> None:
        synth.generate(tmp_path, 2, 3, size=32, seed=9, sets=SETS, workers=workers)

    run()
    files = sorted(tmp_path.rglob("*.jpg"))
    assert [str(f.relative_to(tmp_path / "person_000001")) for f in files[3:]] == [
        "set_A/00.jpg", "set_B/01.jpg", "set_C/02.jpg"]  # fmt: skip
    before = {f: f.read_bytes() for f in files}
    for f in files:
        os.utime(f, (0, 0))
    files[0].unlink()
    files[4].write_bytes(before[files[4]][:100])  # a torn file counts as missing
    run(workers=2)
    assert {f: f.read_bytes() for f in sorted(tmp_path.rglob("*.jpg"))} == before
    assert [f.stat().st_mtime > 0 for f in files] == [i in (0, 4) for i in range(6)]
    record = json.loads((tmp_path / "person_000000" / "attributes.json").read_text())
    assert sorted(record["portraits"]) == ["set_A/00.jpg", "set_B/01.jpg", "set_C/02.jpg"]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rays, "EmbreeScene", None)
    monkeypatch.setattr(rays, "_MISSING", ImportError(name="embreex"), raising=False)
    with pytest.raises(CloakBenchError, match=r'embreex: pip install "cloakbench\[synth\]"'):
        rays.make_scene(np.zeros((3, 3), np.float32), np.arange(3, dtype=np.int32)[None])


def test_portraits_must_split_evenly_into_sets(tmp_path: Path) -> None:
    with pytest.raises(CloakBenchError, match="multiple of the 3 sets"):
        synth.generate(tmp_path, 1, 4, sets=SETS)


def test_bundled_people_are_in_one_of_two_groups_and_none_is_a_training_person() -> None:
    groups = json.loads((RESOURCES / "groups.json").read_text())
    tuning, evaluation = (groups[name]["people"] for name in ("tuning", "evaluation"))
    folders = {path.name: path for path in RESOURCES.iterdir() if path.is_dir()}
    assert (len({*tuning}), len({*evaluation})) == (12, 48)
    assert {*tuning, *evaluation} == {*folders}
    assert groups["twelve"]["people"] == evaluation[:12]
    training = groups["training"]
    theirs = {
        int(np.random.SeedSequence([training["seed"], number]).generate_state(1)[0])
        for number in range(training["first"], training["first"] + training["count"])
    }
    for folder in folders.values():
        person = json.loads((folder / "attributes.json").read_text())["person"]
        assert person["seed"] not in theirs
        for name in SETS:
            images = [Image.open(p) for p in sorted((folder / name).glob("*.jpg"))]
            assert [(i.size, i.mode) for i in images] == [((128, 128), "RGB")] * 4
    assert sum(p.stat().st_size for p in RESOURCES.rglob("*") if p.is_file()) <= 16_000_000
