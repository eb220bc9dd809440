"""Metrics, references and distances against cases worked out by hand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from conftest import Killed, MortalJob, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from cloakbench.cli import score as commands
from cloakbench.errors import CloakBenchError
from cloakbench.faces import Face, FaceBackend, cosine
from cloakbench.files.images import to_pixels
from cloakbench.files.layout import Cell
from cloakbench.files.text import write_csv
from cloakbench.files.verified import seal
from cloakbench.models.clip import Clip, load_clip
from cloakbench.models.perceptual import dssim, load_lpips
from cloakbench.running.jobs import Job
from cloakbench.score.base import (
    DISTANCES,
    ImageMetric,
    NetworkMetric,
    Sample,
    SetMetric,
    build_metrics,
    metrics,
    photo_metrics,
)
from cloakbench.score.metrics.kid import KID, squared_mmd
from cloakbench.score.photos import distances
from cloakbench.score.references import (
    FALSE_ACCEPTS,
    NO_REFERENCES,
    Calibration,
    IdentityReference,
    References,
    make_references,
)
from cloakbench.score.samples import score_samples

CELL = Cell("mini", "synthetic", "anna", "0", "aspl", "none", "dreambooth")
FACE_METRICS = ["relative_ims", "fdfr", "ism", "relative_ism", "identified", "identified_detected"]
BLACK = (0, 0, 0)


class Colours(FaceBackend):
    """Sees a face in every coloured picture: its embedding is the colour; black shows none."""

    name: ClassVar[str] = "colours"
    smallest_side: int = 0

    def detect(self, pixels: np.ndarray) -> list[Face]:
        colour = pixels[0, 0].astype(float)
        return [Face((0, 0, 10, 10), 1.0, colour)] if colour.any() else []


class Crowd(Colours):
    """Adds a small, confident bystander in front of the list."""

    name: ClassVar[str] = "crowd"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        bystander = Face((0, 0, 2, 2), 9.0, np.array([0.0, 0.0, 1.0]))
        return [bystander, *super().detect(pixels)]


class Broken(Colours):
    """Fails the way a bug or a missing library does."""

    name: ClassVar[str] = "broken"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        raise RuntimeError("out of memory")


def paint(folder: Path, *colours: tuple[int, int, int]) -> Path:
    folder.mkdir(parents=True)
    for index, colour in enumerate(colours):
        Image.new("RGB", (32, 32), colour).save(folder / f"{index:02d}.png")
    return folder


def references_of(backend: FaceBackend, **embeddings: list[float]) -> References:
    return References(
        backend=backend.spec(),
        identities={
            name: IdentityReference(embedding=tuple(vector), photos=1, faces=1)
            for name, vector in embeddings.items()
        },
        calibration=Calibration(same=0.9, other=0.1, accept=0.7, comparisons=100),
    )


def scores(folder: Path, backend: FaceBackend, names: list[str] = FACE_METRICS) -> pd.DataFrame:
    references = references_of(backend, anna=[1, 0, 0], bert=[0, 1, 0])
    return score_samples(folder, references, backend, build_metrics(names), CELL)


def test_fdfr_is_the_share_without_a_face_and_ism_the_mean_over_the_others(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0), (30, 40, 0), BLACK)
    paint(tmp_path / "portrait", BLACK)

    table = scores(tmp_path, Colours())

    assert table["fdfr"].mean() == 0.5
    assert table["ism"].mean() == pytest.approx((1.0 + 0.6) / 2)
    assert table["ism"].isna().tolist() == [False, False, True, True]
    assert table["face"].tolist() == [1, 1, 0, 0]


def test_a_missing_face_is_not_identified_but_leaves_the_rate_of_the_detected(
    tmp_path: Path,
) -> None:
    paint(tmp_path / "photo", (200, 0, 0), (30, 40, 0), BLACK)

    table = scores(tmp_path, Colours())

    assert table["identified"].tolist() == [1, 0, 0]
    assert table["identified_detected"].mean() == 0.5


def test_a_missing_face_is_a_stranger_to_relative_ims(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0), (30, 40, 0), BLACK)

    table = scores(tmp_path, Colours(), ["relative_ims", "relative_ism"])

    seen = [(1.0 - 0.1) / 0.8, (0.6 - 0.1) / 0.8]
    assert table["relative_ims"].tolist() == pytest.approx([*seen, 0.0])
    assert table["relative_ism"].mean() == pytest.approx(sum(seen) / 2)


def test_without_any_face_ism_is_nan_and_fdfr_one(tmp_path: Path) -> None:
    paint(tmp_path / "photo", BLACK, BLACK)

    table = scores(tmp_path, Colours())

    assert table["fdfr"].mean() == 1
    assert math.isnan(table["ism"].mean())
    assert table["identified"].mean() == 0


def test_ser_fiq_wants_a_backend_that_measures_quality(tmp_path: Path) -> None:
    paint(tmp_path / "photo", BLACK, (200, 0, 0))

    with pytest.raises(CloakBenchError, match="facexlib or insightface to 100"):
        scores(tmp_path, Colours(), ["ser_fiq"])


def test_clip_tells_how_near_images_are_to_prompts_and_originals(tiny_weights: Path) -> None:
    rng = np.random.default_rng(0)
    image, other = (
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(2)
    )
    clip = load_clip("tiny_clip")
    texts = [f"a photo of {word}" for word in ("a person", "noise", "a wall")]
    near = (clip.embed_images([image, other]) @ clip.embed_texts(texts).T)[0].tolist()

    def score(name: str, sample: Sample, **settings: object) -> float:
        spec = {"method": name, "clip": "tiny_clip", **settings}
        return metrics.build(spec).score(sample, NO_REFERENCES, "")

    cosine_of_photos = float(torch.prod(clip.embed_images([image, other]), dim=0).sum())
    assert score("clip_prompt", Sample(image, None), prompt=texts[1]) == pytest.approx(near[1])
    photo = Sample(image, None, original=other)
    assert score("clip_original", photo) == pytest.approx(cosine_of_photos, abs=1e-6)
    shares = [
        score("concept", Sample(image, None), prompts=[text, *(t for t in texts if t != text)])
        for text in texts
    ]
    assert shares == [float(value == max(near)) for value in near]


def test_the_largest_face_is_scored_and_all_are_counted(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0))

    [row] = scores(tmp_path, Crowd()).to_dict("records")

    assert row["faces"] == 2
    assert row["ism"] == pytest.approx(1)


def test_a_failing_backend_is_no_missing_face(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0))

    with pytest.raises(RuntimeError, match="out of memory"):
        scores(tmp_path, Broken())


def test_an_unreadable_sample_is_no_missing_face(tmp_path: Path) -> None:
    (tmp_path / "photo").mkdir()
    (tmp_path / "photo" / "00.png").write_bytes(b"")

    with pytest.raises(CloakBenchError, match=r"00\.png: is empty"):
        scores(tmp_path, Colours())


def test_faces_are_not_searched_when_no_metric_needs_them(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "photo").mkdir()
    Image.fromarray(noise).save(tmp_path / "photo" / "00.png")

    [row] = scores(tmp_path, Broken(), ["brisque"]).to_dict("records")

    assert row["face"] is None
    assert row["brisque"] > 50


def test_rows_carry_labels_prompt_and_image(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0))

    table = scores(tmp_path, Colours(), ["ism"])

    assert list(table.columns) == [
        *("model", "dataset", "identity", "seed", "protection", "purification", "trainer"),
        *("prompt", "image", "face", "faces", "ism"),
    ]
    assert table.iloc[0][["identity", "prompt", "image"]].tolist() == ["anna", "photo", "00"]


def test_a_folder_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CloakBenchError, match="no samples"):
        scores(tmp_path, Colours())


def test_references_of_other_settings_are_refused(tmp_path: Path) -> None:
    references = references_of(Colours(smallest_side=64), anna=[1, 0, 0])

    with pytest.raises(CloakBenchError, match=r"were made with .*smallest_side"):
        score_samples(tmp_path, references, Colours(), build_metrics(["ism"]), CELL)


def test_pictures_without_faces_are_scored_without_references(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0))
    args = tmp_path, NO_REFERENCES, Broken()

    [row] = score_samples(*args, build_metrics(["brisque"]), CELL).to_dict("records")

    assert row["image"] == "00"
    with pytest.raises(CloakBenchError, match=r"'ism' compares faces .* with --references"):
        score_samples(*args, build_metrics(["brisque", "ism"]), CELL)


def test_an_identity_without_a_reference_is_named(tmp_path: Path) -> None:
    references = references_of(Colours(), anne=[1, 0, 0])

    with pytest.raises(CloakBenchError, match="'anna': did you mean 'anne'"):
        score_samples(tmp_path, references, Colours(), build_metrics(["ism"]), CELL)


def test_calibration_maps_other_people_to_zero_and_the_same_person_to_one() -> None:
    calibration = Calibration(same=0.8, other=0.3, accept=0.5, comparisons=100)

    assert calibration.relative(0.3) == 0
    assert calibration.relative(0.8) == pytest.approx(1)
    assert calibration.relative(0.55) == pytest.approx(0.5)


def identity(root: Path, name: str, reference: list, others: list) -> Path:
    folder = root / name / "data"
    for group, colours in (("set_A", others), ("set_B", others), ("set_C", reference)):
        paint(folder / group, *colours)
    return folder


def test_references_are_plain_means_and_the_calibration_is_over_identities(tmp_path: Path) -> None:
    folders = {
        "anna": identity(tmp_path, "anna", [(200, 0, 0), (100, 0, 0), BLACK], [(30, 40, 0), BLACK]),
        "bert": identity(tmp_path, "bert", [(0, 50, 0)], [(0, 20, 0)]),
    }

    made = make_references(folders, Colours())

    assert made["anna"] == IdentityReference(embedding=(150, 0, 0), photos=3, faces=2)
    assert made.calibration is not None
    assert made.calibration.same == pytest.approx((0.6 + 1.0) / 2)
    assert made.calibration.other == pytest.approx((0.8 + 0.0) / 2)
    assert made.calibration.accept == pytest.approx(0.8), "the largest of four cosines"


@pytest.mark.parametrize("people", [6, 18])
def test_strangers_pass_as_seldom_whether_few_people_are_known_or_many(
    people: int, tmp_path: Path
) -> None:
    """Who is merely the nearest of six would pass for somebody one time in six."""
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 256, (18, 1, 3)) + rng.integers(-8, 9, (18, 4, 3))
    photos = {f"p{k:02d}": np.clip(colours, 1, 255) for k, colours in enumerate(shades)}
    known = {name: [[*map(tuple, each.tolist())][i : i + 2] for i in (0, 2)]
             for name, each in [*photos.items()][:people]}  # fmt: skip
    made = make_references(
        {name: identity(tmp_path, name, *sets) for name, sets in known.items()}, Colours()
    )

    def share_that_passes(colours: np.ndarray, name: str) -> float:
        faces = [Face((0, 0, 10, 10), 1.0, colour.astype(float)) for colour in colours]
        samples = [Sample(Image.new("RGB", (1, 1)), face) for face in faces]
        return np.mean([identified.score(sample, made, name) for sample in samples])

    [identified] = build_metrics(["identified"])
    strangers = rng.integers(1, 256, (200, 3))
    assert np.mean([share_that_passes(strangers, name) for name in [*known][:6]]) < 0.05
    assert np.mean([share_that_passes(photos[name][2:], name) for name in [*known][:6]]) > 0.6
    assert made.calibration is not None
    assert made.calibration.comparisons == people * 4 * (people - 1)


@pytest.mark.parametrize("people", [6, 7, 11])
def test_no_more_strangers_pass_than_is_said(people: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    colours = rng.integers(1, 256, (people, 4, 3))
    sets = {f"p{k:02d}": [*map(tuple, each.tolist())] for k, each in enumerate(colours)}
    folders = {name: identity(tmp_path, name, own[:2], own[2:]) for name, own in sets.items()}

    calibration = make_references(folders, Colours()).calibration

    assert calibration is not None
    means = {name: np.mean(own[:2], axis=0) for name, own in sets.items()}
    strangers = [
        cosine(np.array(photo, float), mean)
        for name, own in sets.items()
        for photo in own[2:]
        for other, mean in means.items()
        if other != name
    ] * 2  # set_A and set_B hold the same here
    assert len(strangers) == calibration.comparisons
    passing = np.mean(np.array(strangers) >= calibration.accept - 1e-12)
    assert 0 < passing <= max(FALSE_ACCEPTS, 2 / len(strangers))


def test_too_few_comparisons_for_the_rate_of_false_accepts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = {
        "anna": identity(tmp_path, "anna", [(200, 0, 0)], [(200, 10, 0)]),
        "bert": identity(tmp_path, "bert", [(0, 50, 0)], [(0, 20, 0)]),
    }

    make_references(folders, Colours())

    assert "4 comparisons with others: too few for a false-accept rate of 1 %" in caplog.text


@pytest.mark.parametrize("place", ["results/anna/data", "anna", "anna/data/", "./anna"])
def test_references_are_called_after_the_folder_or_where_it_lies_in_results(place: str) -> None:
    assert commands.identity_of(Path(place)) == "anna"


def test_ims_is_refused_where_strangers_are_alike(tmp_path: Path) -> None:
    paint(tmp_path / "photo", (200, 0, 0))
    references = references_of(Colours(), anna=[1, 0, 0]).model_copy(
        update={"calibration": Calibration(same=0.98, other=0.91, accept=0.95, comparisons=100)}
    )

    with pytest.raises(CloakBenchError, match=r"'ims' .*; with 'colours' they have 0\.91"):
        score_samples(tmp_path, references, Colours(), build_metrics(["ims"]), CELL)


def test_ims_is_refused_where_nobody_can_say_how_alike_strangers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one person's photos there is no scale; then the backend's own word counts."""
    paint(tmp_path / "photo", (200, 0, 0))
    monkeypatch.setattr(Colours, "strangers", 0.8)
    known = references_of(Colours(), anna=[1, 0, 0])
    references = known.model_copy(update={"calibration": None})

    with pytest.raises(CloakBenchError, match=r"'ims' .*; with 'colours' they have 0\.80"):
        score_samples(tmp_path, references, Colours(), build_metrics(["ims"]), CELL)


@pytest.fixture
def mean_colour(tmp_path: Path) -> Path:
    """A network in ONNX's format whose embedding of a BGR picture is its mean colour less grey."""
    from onnx import TensorProto, helper, save

    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 8, 8])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, None)
    grey = helper.make_tensor("grey", TensorProto.FLOAT, [1], [0.4])
    mean = helper.make_node("GlobalAveragePool", ["picture"], ["mean"])
    less = helper.make_node("Sub", ["mean", "grey"], ["found"])
    graph = helper.make_graph([mean, less], "colour", [picture], [found], [grey])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, tmp_path / "vgg_face.onnx")
    return tmp_path / "vgg_face.onnx"


def test_vgg_faces_part_of_ims_is_of_the_photos_that_are_near(tmp_path: Path, mean_colour) -> None:
    """Of two clean photos, red and green, a red sample is near the first alone; a blue one to none,
    and a black one, in which no face is found, is looked at as a whole.
    """
    red, blue, dark_red = (250, 0, 0), (0, 0, 250), (200, 10, 10)
    photos = paint(tmp_path / "photos", red, (0, 250, 0))
    paint(tmp_path / "samples" / "photo", dark_red, blue, BLACK)
    chosen = build_metrics([{"method": "ims", "vgg_face": str(mean_colour)}])

    table = score_samples(
        tmp_path / "samples",
        references_of(Colours(), anna=[1, 0, 0]),
        Colours(),
        chosen,
        CELL,
        photos,
    )

    def embedded(colour: tuple[int, int, int]) -> np.ndarray:
        return np.array(colour) / 255 - 0.4

    near = cosine(embedded(dark_red), embedded(red))
    [first, second, third] = table["ims"]
    assert first == pytest.approx(0.7 * cosine(np.array(dark_red), np.array(red)) + 0.3 * near)
    assert second == pytest.approx(0.7 * 0 + 0.3 * -1)
    assert third == pytest.approx(0.7 * -1 + 0.3 * -1), "black is 0.6 from red, and no face"


def test_vgg_face_is_one_of_the_files_that_scores_depend_on(tmp_path: Path, mean_colour) -> None:
    [metric] = build_metrics([{"method": "ims", "vgg_face": str(mean_colour)}])
    [missing] = build_metrics([{"method": "ims", "vgg_face": str(tmp_path / "none.onnx")}])

    assert [each.file for each in metric.files()] == [mean_colour]
    with pytest.raises(CloakBenchError, match=r"none\.onnx: no such weights here"):
        missing.check()
    with pytest.raises(CloakBenchError, match="'ims' compares with the person's clean photos"):
        paint(tmp_path / "photo", (200, 0, 0))
        score_samples(tmp_path, references_of(Colours(), anna=[1, 0, 0]), Colours(), [metric], CELL)


def test_photos_without_a_face_are_named_as_their_owner_knows_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = identity(tmp_path, "anna", [(9, 0, 0), BLACK], [(9, 0, 0)])
    said = {"stage": "data", "photos": {"set_C": ["IMG_1.jpg", "IMG_2.jpg"]}}
    seal(folder, said)

    make_references({"anna": folder}, Colours())

    [line] = [text for text in caplog.messages if "finds no face" in text]
    assert line.startswith(f"{folder / 'set_C' / '01.png'} (IMG_2.jpg): backend 'colours' finds")
    assert "let the dataset's crop be 'face'" in line


def test_references_that_were_killed_look_at_no_identity_twice(tmp_path: Path) -> None:
    looked: list[int] = []

    class Counting(Colours):
        def detect(self, pixels: np.ndarray) -> list[Face]:
            looked.append(len(looked))
            return super().detect(pixels)

    folders = {n: identity(tmp_path, n, [(9, 3, 0)], [(9, 1, 0)]) for n in ("anna", "bert")}
    right, each = make_references(folders, Counting()), len(looked) // 2

    with pytest.raises(Killed):
        make_references(folders, Counting(), MortalJob(0, scratch=tmp_path / "s", lives=1))
    looked.clear()
    again = make_references(folders, Counting(), Job(0, scratch=tmp_path / "s"))

    assert len(looked) == each
    assert again == right


def test_references_survive_their_file(tmp_path: Path) -> None:
    made = references_of(Colours(), anna=[1 / 3, 0, 0])
    made.write(tmp_path / "new" / "references.json", {"stage": "references"})

    assert References.read(tmp_path / "new" / "references.json") == made


def test_an_identity_without_a_reference_face_stops_the_stage(tmp_path: Path) -> None:
    folders = {"anna": identity(tmp_path, "anna", [BLACK, BLACK], [(1, 1, 1)])}

    with pytest.raises(CloakBenchError, match="set_C: backend 'colours' finds no face in any of 2"):
        make_references(folders, Colours())


def test_a_single_identity_has_no_relative_scores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = {"anna": identity(tmp_path / "data", "anna", [(200, 0, 0)], [(200, 0, 0)])}
    samples = paint(tmp_path / "generated" / "photo", (200, 0, 0)).parent

    made = make_references(folders, Colours())
    table = score_samples(samples, made, Colours(), build_metrics(FACE_METRICS), CELL)

    assert "one identity" in caplog.text
    assert table["ism"].tolist() == [pytest.approx(1)]
    assert table[["relative_ims", "relative_ism", "identified"]].isna().all(axis=None)


def test_a_backend_that_cannot_tell_people_apart_gives_no_scale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = {n: identity(tmp_path, n, [(9, 0, 0)], [(9, 0, 0)]) for n in ("anna", "bert")}

    assert make_references(folders, Colours()).calibration is None
    assert "does not tell the identities apart" in caplog.text


def test_a_damaged_references_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "references.json").write_text("{")
    seal(tmp_path / "references.json", {"stage": "references"})

    with pytest.raises(CloakBenchError, match=r"references\.json: not a references file"):
        References.read(tmp_path / "references.json")


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_declares_itself_and_keeps_its_bounds(name: str, tiny_weights: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    references = references_of(Colours(), anna=[1, 0, 0], bert=[0, 1, 0])
    face = Face((0, 0, 1, 1), 1, np.array([3.0, 4.0, 0.0]), quality=0.5)
    sample = Sample(Image.fromarray(noise), face, original=Image.fromarray(noise // 2))

    metric = metrics.build(tiny_spec(metrics, name))

    if isinstance(metric, SetMetric):
        value = metric.score([sample.image] * 2, [sample.original, sample.image])
    else:
        value = metric.score(sample, references, "anna")

    low, high = metric.bounds
    assert low <= value <= high
    assert metric.protects in ("higher", "lower")
    assert metric.reads <= {"faces", "reference", "pixels", "original", "photos"}
    assert metric.title


def test_brisque_rises_with_noise_and_has_no_value_for_one_colour() -> None:
    rows, columns = np.mgrid[0:128, 0:128]
    smooth = (127 + 60 * np.sin(rows / 9) + 50 * np.cos(columns / 7)).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 40, smooth.shape)
    natural, noisy, flat = (
        Sample(Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).convert("RGB"), None)
        for x in (smooth + noise / 20, smooth + noise, np.full_like(smooth, 90))
    )
    [brisque] = build_metrics(["brisque"])
    references = references_of(Colours())

    assert brisque.score(noisy, references, "") > brisque.score(natural, references, "")
    assert math.isnan(brisque.score(flat, references, ""))


def test_a_metric_named_twice_is_an_error() -> None:
    with pytest.raises(CloakBenchError, match="'ism' is named twice"):
        build_metrics(["ism", {"method": "ism"}])


def test_cosine_agrees_with_the_angle() -> None:
    a, b = np.array([1.0, 0.0]), np.array([np.cos(0.7), np.sin(0.7)]) * 5

    assert cosine(a, b) == pytest.approx(np.cos(0.7))


def measured(photo: Image.Image, original: Image.Image) -> dict[str, float]:
    return {name: metrics.build(name).compare(photo, original) for name in DISTANCES}


def test_distances_agree_with_independent_formulas() -> None:
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    changed = np.clip(original.astype(int) + rng.integers(-9, 10, original.shape), 0, 255)

    found = measured(Image.fromarray(changed.astype(np.uint8)), Image.fromarray(original))

    assert found["linf"] == np.abs(changed - original).max()
    assert found["psnr"] == pytest.approx(
        peak_signal_noise_ratio(original, changed.astype(np.uint8), data_range=255)
    )
    tensors = (torch.from_numpy(a / 255).permute(2, 0, 1)[None] for a in (changed, original))
    assert found["ssim"] == pytest.approx(1 - 2 * dssim(*tensors).item(), abs=1e-6)


def test_equal_images_have_infinite_psnr_and_ssim_one() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))

    assert measured(image, image) == {"linf": 0, "psnr": math.inf, "ssim": pytest.approx(1)}


def test_lpips_is_of_photos_and_their_originals(tiny_weights: Path) -> None:
    rng = np.random.default_rng(0)
    original, changed = (
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)
    )
    [lpips] = build_metrics(["lpips"])
    assert isinstance(lpips, ImageMetric)

    def score(image: Image.Image, original: Image.Image) -> float:
        return lpips.score(Sample(image, None, original=original), NO_REFERENCES, "")

    expected = load_lpips("cpu")(to_pixels([changed]), to_pixels([original]))
    assert score(changed, original) == pytest.approx(expected.item(), abs=1e-6)
    assert score(original, original) == 0
    assert (lpips.judges_photos, lpips.judges_samples) == (True, False)


def test_a_metric_of_photos_is_refused_for_samples(tmp_path: Path, tiny_weights: Path) -> None:
    references = references_of(Colours(), anna=[1, 0, 0])

    with pytest.raises(CloakBenchError, match="'lpips' is one of photos"):
        score_samples(tmp_path, references, Colours(), build_metrics(["lpips"]), CELL)


def test_photos_have_the_metrics_that_read_nothing_but_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for folder in ("protected", "set_B"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise).save(tmp_path / folder / "00.png")
    folders = tmp_path / "protected", tmp_path / "set_B"
    brisque, ism = build_metrics(["brisque", "ism"])
    sample = Sample(Image.fromarray(noise), None)

    [row] = distances(*folders, CELL, [brisque]).to_dict("records")

    assert list(row)[-4:] == ["linf", "psnr", "ssim", "brisque"]
    assert row["brisque"] == pytest.approx(brisque.score(sample, NO_REFERENCES, ""))
    with pytest.raises(CloakBenchError, match="metric 'ism' is one of samples"):
        distances(*folders, CELL, [ism])


def test_distances_are_always_measured_of_photos_and_only_once() -> None:
    chosen = build_metrics(["ism", "ssim", "brisque"])

    assert [metric.name for metric in photo_metrics([])] == ["linf", "psnr", "ssim"]
    names = [metric.name for metric in photo_metrics(chosen)]
    assert names == ["linf", "psnr", "ssim", "brisque"]


def test_photos_are_matched_by_stem_whatever_their_format(tmp_path: Path) -> None:
    changed = paint(tmp_path / "protected", (10, 10, 10), (20, 20, 20))
    original = tmp_path / "set_B"
    original.mkdir()
    Image.new("RGB", (32, 32), (23, 20, 20)).save(original / "01.bmp")
    Image.new("RGB", (32, 32), (10, 10, 10)).save(original / "00.bmp")

    table = distances(changed, original, CELL)

    assert table["photo"].tolist() == ["00", "01"]
    assert table["linf"].tolist() == [0, 3]
    assert "trainer" not in table


def test_photos_without_their_original_are_named(tmp_path: Path) -> None:
    changed, original = paint(tmp_path / "a", BLACK, BLACK), paint(tmp_path / "b", BLACK)

    with pytest.raises(CloakBenchError, match="01 in only one"):
        distances(changed, original, CELL)


def test_a_photo_of_another_size_is_named(tmp_path: Path) -> None:
    original = paint(tmp_path / "a", BLACK)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "b" / "00.png")

    with pytest.raises(CloakBenchError, match=r"is 64x64 px but .* is 32x32 px"):
        distances(tmp_path / "b", original, CELL)


def features(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 4 of Binkowski et al., pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(a * b) / len(a) + 1) ** 3

    def mean(values) -> float:
        values = list(values)
        return sum(values) / len(values)

    within = (mean(kernel(*pair) for pair in itertools.permutations(z, 2)) for z in (x, y))
    return sum(within) - 2 * mean(kernel(*pair) for pair in itertools.product(x, y))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    return squared_mmd(torch.from_numpy(x), torch.from_numpy(y))


@given(st.integers(0, 999), st.integers(2, 5), st.integers(2, 5))
def test_the_kernel_distance_equals_its_formula_and_is_symmetric(seed: int, m: int, n: int) -> None:
    x, y = features(seed, m), features(seed + 1000, n)

    assert mmd(x, y) == pytest.approx(kernel_distance(x, y), rel=1e-9, abs=1e-9)
    assert mmd(y, x) == pytest.approx(mmd(x, y), rel=1e-9, abs=1e-9)


def test_the_kernel_distance_is_unbiased() -> None:
    """Averaged over all draws it is that of the distributions, and 0 for a single one."""
    people, others = features(0, 3), features(1, 3)
    draws = list(itertools.product(range(3), repeat=2))

    def average(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([mmd(x[list(i)], y[list(j)]) for i in draws for j in draws]))

    gram = (people @ people.T / 5 + 1) ** 3, (others @ others.T / 5 + 1) ** 3
    true = sum(g.mean() for g in gram) - 2 * ((people @ others.T / 5 + 1) ** 3).mean()
    assert average(people, people) == pytest.approx(0, abs=1e-9)
    assert average(people, others) == pytest.approx(true)


@pytest.fixture
def photo_set(tmp_path: Path) -> Path:
    folder = tmp_path / "set_C"
    folder.mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{seed}.png")
    return folder


def test_kid_is_of_all_samples_of_a_cell_and_stands_in_every_row(
    photo_set: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    samples = [
        *paint(tmp_path / "generated" / "photo", (200, 0, 0), (30, 40, 0)).iterdir(),
        *paint(tmp_path / "generated" / "portrait", BLACK).iterdir(),
    ]
    chosen = [*build_metrics(["fdfr"]), KID(clip="tiny_clip"), *build_metrics(["ism"])]
    references = references_of(Colours(), anna=[1, 0, 0])
    folder = tmp_path / "generated"

    table = score_samples(folder, references, Colours(), chosen, CELL, photo_set)

    def embedded(paths) -> np.ndarray:
        images = [Image.open(path).convert("RGB") for path in sorted(paths)]
        unit = load_clip("tiny_clip").embed_images(images).double().numpy()
        return unit * math.sqrt(unit.shape[1])

    expected = kernel_distance(embedded(samples), embedded(photo_set.iterdir()))
    assert table["kid"].tolist() == [pytest.approx(expected, abs=1e-6)] * 3
    assert table["kid"].nunique() == 1
    assert list(table.columns)[-3:] == ["fdfr", "kid", "ism"]
    with pytest.raises(CloakBenchError, match=r"'kid' compares with .*--photos"):
        score_samples(folder, references, Colours(), chosen, CELL)
    with pytest.raises(CloakBenchError, match="'kid' is one of samples"):
        distances(photo_set, photo_set, CELL, chosen[1:2])


def test_kid_of_a_single_sample_is_unknown(photo_set: Path) -> None:
    photos = [Image.open(path) for path in photo_set.iterdir()]

    assert math.isnan(KID(clip="tiny_clip").score(photos[:1], photos))
    assert math.isnan(KID(clip="tiny_clip").score(photos, photos[:1]))


def test_batches_change_no_embedding(
    photo_set: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [Image.open(path) for path in sorted(photo_set.iterdir())]
    kid = KID(clip="tiny_clip")
    at_once = kid.score(photos, photos[:2])
    monkeypatch.setattr("cloakbench.models.clip.BATCH", 2)
    again = [photo.copy() for photo in photos]  # others, for a CLIP that remembers

    assert kid.score(again, again[:2]) == pytest.approx(at_once, abs=1e-6)


BY_NETWORK = [method.name for method in metrics if issubclass(method, NetworkMetric)]


@pytest.mark.parametrize("name", BY_NETWORK)
def test_images_score_the_same_alone_and_with_others(name: str, tiny_weights: Path) -> None:
    rng = np.random.default_rng(2)

    def picture(*size: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))

    sizes = [(48, 48)] * 5 + [(64, 48), (48, 48)]
    samples = [Sample(picture(*size), None, original=picture(*size)) for size in sizes]
    metric = metrics.build(tiny_spec(metrics, name))

    together = metric.scores(samples, NO_REFERENCES, "")

    alone = [metric.score(sample, NO_REFERENCES, "") for sample in samples]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) > 1 or name == "concept"


def test_metrics_with_the_same_clip_embed_an_image_once(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "photo", (200, 0, 0), (30, 40, 0), (0, 0, 90))
    seen, embed = [], Clip.embed_pixels

    def counting(clip: Clip, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return embed(clip, pixels)

    monkeypatch.setattr(Clip, "embed_pixels", counting)
    scores(tmp_path, Colours(), [tiny_spec(metrics, name) for name in ("clip_iqac", "clip_prompt")])

    assert seen == [3]


def test_a_table_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.csv"
    write_csv(pd.DataFrame({"ism": [0.5]}), path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_csv(pd.DataFrame({"ism": [0.9]}), path)

    assert path.read_text() == "ism\n0.5\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    from cloakbench.faces import backends

    monkeypatch.setitem(backends._methods, "colours", Colours)
    app = typer.Typer()
    for command in (commands.references, commands.score, commands.distances):
        app.command()(command)

    def invoke(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


def test_the_commands_go_from_photos_to_score_files(run, tmp_path: Path, tiny_weights) -> None:
    anna = identity(tmp_path, "anna", [(200, 0, 0)] * 2, [(200, 10, 0)])
    bert = identity(tmp_path, "bert", [(0, 200, 0)], [(0, 200, 10)])
    generated = paint(tmp_path / "generated" / "photo", (200, 0, 0), BLACK).parent
    faces = json.dumps({"method": "colours"})
    reference = tmp_path / "references.json"

    made = run("references", anna, bert, "--faces", "colours", "-o", reference, "--json")
    run(
        *("score", generated, "--references", reference, "--identity", "anna", "--faces", faces),
        *("--metric", "fdfr", "--metric", "identified", "-o", tmp_path / "scores.csv"),
        *("--metric", json.dumps({"method": "kid", "clip": "tiny_clip"})),
        *("--photos", anna / "set_C"),
    )
    run("distances", anna / "set_A", anna / "set_B", "-o", tmp_path / "distances.csv")

    assert json.loads(made)["people"] == 2
    assert json.loads(made)["next"].startswith(
        f"cloakbench score SAMPLES --references {reference} "
    )
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table[["fdfr", "identified"]].to_numpy().tolist() == [[0, 1], [1, 0]]
    assert table["kid"].nunique() == 1
    assert pd.read_csv(tmp_path / "distances.csv")["linf"].tolist() == [0]


def test_known_references_are_copied_if_they_would_come_out_the_same(run, monkeypatch, tmp_path):
    anna = identity(tmp_path, "anna", [(200, 0, 0)] * 2, [(200, 10, 0)])
    bert = identity(tmp_path, "bert", [(0, 200, 0)], [(0, 200, 10)])
    known, copied, again = (tmp_path / f"{name}.json" for name in ("known", "copied", "again"))
    run("references", anna, bert, "--faces", "colours", "-o", known)
    looked_at: list[object] = []
    monkeypatch.setattr(Colours, "detect", lambda self, image: looked_at.append(image) or [])

    run("references", anna, bert, "--faces", "colours", "--known", known, "-o", copied)
    assert not looked_at
    assert References.read(copied) == References.read(known)

    Image.new("RGB", (32, 32), (200, 20, 0)).save(sorted((anna / "set_A").iterdir())[0])
    with pytest.raises(CloakBenchError, match="no face"):
        run("references", anna, bert, "--faces", "colours", "--known", known, "-o", again)
    assert looked_at


def test_the_limit_of_brisque_is_what_its_regression_gives_far_away():
    """Every support vector's kernel is zero there, and the offset is left."""
    from cloakbench.score.metrics.brisque import Brisque, _model

    assert Brisque.saturates == pytest.approx(-_model().model.rho[0], abs=1e-3)
