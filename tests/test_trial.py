"""A trial of one's own photos: they come back at their size, and a page says what was learnt."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from conftest import smooth_photos
from PIL import Image
from test_cli import cli
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.faces import Face
from cloakbench.faces.dlib import Dlib
from cloakbench.files.images import to_images
from cloakbench.files.outputs import new_folder
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.trial import steps
from cloakbench.trial.likeness import Likeness
from cloakbench.trial.page import LABORATORY, sentences
from cloakbench.trial.photos import cut_again, gather, give_back
from cloakbench.trial.steps import Protected, Recipe

SIZES = {"IMG 1.png": (96, 128), "urlaub.jpg": (150, 70), "b.webp": (64, 64), "c.HEIC": (90, 70)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos as they come: portrait, landscape and square, in four formats, beside a video."""
    pillow_heif.register_heif_opener()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        [image] = to_images(smooth_photos(1, number, 160).pixels)
        image.crop((0, 0, *size)).save(folder / name)
    (folder / "film.mp4").write_bytes(b"film")
    return folder


@pytest.fixture
def quick_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial's own recipe for Stable Diffusion, in a few steps; all faces are in a corner."""
    face = Face((500, 0, 540, 40), 1.0, np.ones(128))
    monkeypatch.setattr(Dlib, "detect", lambda *_: [face])
    tiny = {"preset": "tiny"}
    recipe = Recipe(
        {"method": "pid", "budget": "9/255", **tiny},
        {"method": "aspl_lora", "budget": "9/255", "prior_weight": 0, **tiny},
        {"method": "lora", "prior_weight": 0, **tiny},
        Sampling(images=2, steps=2, sampler="ddim"),
    )
    monkeypatch.setattr(Recipe, "of", lambda *_: recipe)


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.int16)


def test_a_trial_gives_every_photo_back_and_writes_one_page(
    photos, quick_recipe, tiny_model: ModelSpec, monkeypatch
):
    monkeypatch.chdir(photos)  # where the trial's folder is then, too

    said = cli("try", ".", "--model", tiny_model.path)

    assert "4 photos: about " in said
    assert "[7/7] a model learns the photos protected by aspl_lora" in said
    assert "4 photos → trial/pid/ and trial/aspl_lora/; open trial/index.html" in said
    for method in ("pid", "aspl_lora"):
        found = {path.name for path in Path("trial", method).glob("*.png")}
        assert found == {"IMG 1.png", "urlaub.png", "b.png", "c.png"}
        for name in SIZES:
            change = levels(Path("trial", method, f"{Path(name).stem}.png")) - levels(photos / name)
            assert 0 < np.abs(change).max() <= 9
    assert not (levels(Path("trial/pid/urlaub.png")) - levels(photos / "urlaub.jpg"))[:, :80].any()
    page = Path("trial/index.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count('type="range"') == 8
    assert "b.webp, c.HEIC, urlaub.jpg come back with the suffix" in " ".join(page.split())
    assert "another model, a purification" in page


def test_a_trial_that_was_stopped_goes_on_and_does_nothing_twice(
    photos, quick_recipe, tiny_model: ModelSpec, tmp_path, monkeypatch
):
    command = ["try", photos, "--model", tiny_model.path, "--out", tmp_path / "trial"]
    learn, done = steps.generate, []

    def stopped(*arguments, run, **more):
        if len(done) == 1:
            raise CloakBenchError("stopped")
        done.append(run.out.name)
        learn(*arguments, run=run, **more)

    monkeypatch.setattr(steps, "generate", stopped)
    with pytest.raises(CloakBenchError, match="stopped"):
        cli(*command)
    monkeypatch.setattr(steps, "generate", learn)
    made = [p for p in (tmp_path / "trial").rglob("*.png") if ".scratch" not in p.parts]
    before = {path: path.stat().st_mtime_ns for path in made}

    result = CliRunner().invoke(app, [*map(str, command), "--json"], catch_exceptions=False)
    said = json.loads(result.stdout)

    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert [each["protection"] for each in said["tried"]] == ["clean", "pid", "aspl_lora"]
    assert {each["samples"] for each in said["tried"]} == {2}


def test_a_damaged_photo_that_was_replaced_needs_no_force(
    photos, quick_recipe, tiny_model: ModelSpec, tmp_path, monkeypatch
):
    command = ["try", photos, "--model", tiny_model.path, "--out", tmp_path / "trial"]
    whole = (photos / "urlaub.jpg").read_bytes()
    (photos / "urlaub.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CloakBenchError, match=r"urlaub\.jpg"):
        cli(*command)
    (photos / "urlaub.jpg").write_bytes(whole)
    monkeypatch.setattr(steps.Trial, "run", lambda _: pytest.skip("goes on"))

    with pytest.raises(pytest.skip.Exception, match="goes on"):
        cli(*command)


def test_another_trial_in_the_same_folder_is_replaced_with_force_only(
    photos, quick_recipe, tiny_model: ModelSpec, tmp_path, monkeypatch
):
    monkeypatch.setattr(steps.Trial, "run", lambda _: [])
    monkeypatch.setattr("cloakbench.trial.page.write_page", lambda *_: "page")
    command = ["try", photos, "--model", tiny_model.path, "--out", tmp_path / "trial", "--json"]
    cli(*command)
    (tmp_path / "trial" / "aspl").mkdir()
    (tmp_path / "trial" / "aspl" / ".cloakbench").write_text("[]")
    (tmp_path / "trial" / "noise").mkdir()  # of somebody else's
    cli(*command)

    with pytest.raises(CloakBenchError, match="holds a trial of other photos or settings"):
        cli(*command, "--seed", 1)
    cli(*command, "--seed", 1, "--force")
    left = {path.name for path in (tmp_path / "trial").iterdir()}
    assert left == {"noise", "trial.json"}


@pytest.mark.parametrize("of", ["input", "own"])
def test_force_deletes_neither_the_photos_that_are_tried_nor_anybodys_files(
    of: str, photos, quick_recipe, tiny_model: ModelSpec, tmp_path, monkeypatch
):
    monkeypatch.setattr(steps.Trial, "run", lambda _: [])
    monkeypatch.setattr("cloakbench.trial.page.write_page", lambda *_: "page")
    command = ["--model", tiny_model.path, "--out", tmp_path / "trial", "--json"]
    cli("try", photos, *command)
    made = tmp_path / "trial" / "pid"
    with new_folder(made, {"stage": "give_back"}) as folder:
        for name in ("a.png", "b.png"):
            Image.new("RGB", (64, 64)).save(folder / name)
    if of == "own":
        (made / "notes.txt").write_text("years of work")
    before = sorted(path.name for path in made.iterdir())

    place, said = (made, "would replace") if of == "input" else (photos, "holds notes.txt")
    with pytest.raises(CloakBenchError, match=said):
        cli("try", place, *command, "--seed", 1, "--force")
    assert sorted(path.name for path in made.iterdir()) == before


def test_a_perturbation_is_enlarged_within_its_budget_and_only_in_the_square(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("squares", "protected"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (100, 60), (2, 128, 250)).save(tmp_path / "a.jpg", quality=100)
    original = levels(tmp_path / "a.jpg")
    square = rng.integers(20, 230, (32, 32, 3))
    change = rng.choice([-8, 8], (32, 32, 3))
    for name, pixels in {"squares": square, "protected": square + change}.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / "a.png")
    named, boxes = {"a": tmp_path / "a.jpg"}, {"a": (30, 0, 90, 60)}

    give_back(named, boxes, tmp_path / "squares", tmp_path / "protected", tmp_path / "out", 8)
    cut_again(tmp_path / "out", boxes, tmp_path / "again", 32)

    made = levels(tmp_path / "out" / "a.png") - original
    assert made.shape == (60, 100, 3)
    assert not made[:, :30].any()
    assert not made[:, 90:].any()
    assert np.abs(made).max() == 8
    again = levels(tmp_path / "again" / "a.png")[..., 1] - 128  # where nothing is clipped
    assert np.corrcoef(again.ravel(), change[..., 1].ravel())[0, 1] > 0.9


def test_photos_are_gathered_from_files_and_folders_and_videos_are_left_out(photos, caplog):
    named = gather([photos / "b.webp", photos])

    assert sorted(named) == ["IMG 1", "b", "c", "urlaub"]
    assert "film.mp4: is no photo, and is left out" in caplog.text


def test_what_holds_is_said_with_what_it_is_worth():
    def row(name: str, faces: int) -> Protected:
        return Protected(name, Path(), [Path()] * 8, faces)

    counts, held, caveat = sentences([row("clean", 8), row("pid", 6), row("aspl", 1)], True)
    assert counts.endswith("a face is found in 8 before, and in 6 after pid, 1 after aspl.")
    assert held == "aspl kept the model from drawing a face in most of them."
    assert caveat == LABORATORY
    assert "Neither kept the model" in sentences([row("clean", 8), row("pid", 8)], True)[1]
    alike = [row("clean", 8), row("pid", 8), row("aspl", 8)]
    alike = [replace(r, likeness=v) for r, v in zip(alike, (0.8, 0.7, -0.1), strict=True)]
    assert sentences(alike, True)[1:3] == [
        "Likeness is 0.80 before, and 0.70 after pid, \N{MINUS SIGN}0.10 after aspl: 0 is whom the "
        "model draws without your photos, or no face, and 1 another photo of yours.",
        "aspl took more than half of the likeness away.",
    ]
    assert "Neither took half" in sentences(alike[:2], True)[2]
    stranger = [replace(alike[0], likeness=0.1), alike[1]]
    assert "learnt too little" in sentences(stranger, True)[2]
    failed = sentences([row("clean", 2), row("pid", 1)], False)
    assert "learnt too little of the photos as they are" in failed[1]


def test_likeness_is_one_of_another_photo_and_zero_of_a_stranger():
    rng = np.random.default_rng(0)
    person, stranger = np.zeros(64), np.zeros(64)
    person[0], stranger[1] = 3, 3

    def faces(who: np.ndarray, count: int) -> list[np.ndarray | None]:
        return [who + rng.normal(0, 0.2, 64) for _ in range(count)]

    scale = Likeness(faces(person, 300), faces(stranger, 300))

    assert scale.of(faces(person, 300)) == pytest.approx(1, abs=0.02)
    assert scale.of(faces(stranger, 300)) == pytest.approx(0, abs=0.02)
    assert scale.of([*faces(person, 300), *[None] * 100]) == pytest.approx(0.75, abs=0.02)
    assert scale.of([None, None]) == 0


@pytest.mark.parametrize("count", [2, 3, 12])
def test_another_photo_is_as_like_as_another_however_few_there_are(count):
    """Means of few photos are noisy, so all is compared with means of as many."""
    rng = np.random.default_rng(1)
    who, stranger = np.zeros(64), np.zeros(64)
    who[0], stranger[1] = 3, 3
    draw = lambda centre, n: [centre + rng.normal(0, 0.3, 64) for _ in range(n)]  # noqa: E731

    found = [Likeness(draw(who, count), draw(stranger, 20)).of(draw(who, 20)) for _ in range(60)]

    assert np.mean(found) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("photos", "strangers"), [(1, 3), (0, 3), (3, 0)])
def test_without_faces_to_compare_with_there_is_no_likeness(photos, strangers):
    seen = np.eye(4)
    scale = Likeness([*seen[:photos], None], [*seen[:strangers], None])
    assert math.isnan(scale.of([seen[3]]))


def test_the_time_left_is_told_by_the_steps_that_were_done_in_this_run(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("cloakbench.trial.steps.time.monotonic", lambda: now[0])
    said = steps._Steps([0, 10, 100, 50])

    for seconds in (40, 0.5, 600, 0):  # the second step was there already
        said.begin("works")
        now[0] += seconds

    lines = capsys.readouterr().err.splitlines()
    assert lines == ["[1/4] works", "[2/4] works", "[3/4] works", "[4/4] works (about 5 min left)"]
