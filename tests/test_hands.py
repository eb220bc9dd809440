"""By hand: a photo or a folder, what is said of a result, and what is not replaced."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLED, Folders
from PIL import Image
from test_cli import cli

from cloakbench.cli.stages import parse_spec
from cloakbench.files.images import photo_files
from cloakbench.files.outputs import digests_of
from cloakbench.models.spec import ModelSpec
from cloakbench.protect import protections


@pytest.fixture
def photo(folders: Folders) -> Path:
    return min(folders.instance.iterdir())


def test_a_single_photo_is_protected_and_purified_and_what_was_done_is_said(photo, tmp_path):
    protected, purified = tmp_path / "protected", tmp_path / "purified"

    said = cli("protect", "noise", "--instance", photo, "--out", protected)
    assert f"1 photo → {protected}/, L∞ 11/255, PSNR " in said
    assert f"; next: cloakbench purify jpeg --photos {protected}\n" in said
    cli("purify", "resize+jpeg", "--photos", protected / photo.name, "--out", purified)

    assert [path.name for path in purified.glob("*.png")] == [photo.name]
    chain = json.loads((purified / "job.json").read_text())["settings"]["steps"]
    assert [step["method"] for step in chain] == ["resize", "jpeg"]


def test_machines_are_told_in_json(folders, tmp_path):
    out = tmp_path / "protected"
    said = json.loads(
        cli("protect", "noise", "--instance", folders.instance, "--out", out, "--json")
    )

    assert said.pop("psnr") == pytest.approx(27.4, abs=0.5)
    following = f"cloakbench purify jpeg --photos {out}"
    assert said == {"out": str(out), "photos": 2, "linf": 11, "next": following}


def test_distances_are_said_and_written_only_where_a_file_is_named(folders, tmp_path):
    cli("protect", "noise", "--instance", folders.instance, "--out", tmp_path / "p")
    before = digests_of(tmp_path)

    said = cli("distances", tmp_path / "p", folders.instance)
    rows = json.loads(cli("distances", tmp_path / "p", folders.instance, "--json"))
    same = json.loads(cli("distances", folders.instance, folders.instance, "--json"))

    assert said.startswith("2 photos: L∞ [levels] 11, PSNR [dB] 2")
    assert [row["photo"] for row in rows] == ["01", "02"]
    assert {row["linf"] for row in rows} == {11.0}
    assert {row["psnr"] for row in same} == {None}  # JSON has no infinity
    assert digests_of(tmp_path) == before


def test_a_picture_and_a_folder_of_pictures_are_scored_as_samples_are(folders, photo, tmp_path):
    out = tmp_path / "scores.csv"
    for place, count in ((photo, "1 sample "), (folders.instance, "2 samples ")):
        said = cli("score", place, "--metric", "brisque", "--identity", "a", "-o", out, "--force")
        assert said.startswith(f"{count}→ {out}: BRISQUE ")
        assert said.endswith(f"; next: cloakbench manifest {out}\n")

    assert [row.split(",")[7] for row in out.read_text().splitlines()[1:]] == ["set_B"] * 2


def test_values_at_a_metrics_limit_are_counted_by_hand_as_in_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("cloakbench.score.metrics.brisque.Brisque.score", lambda *_: 155.845)
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")

    said = cli("distances", tmp_path, tmp_path, "--metric", "brisque")

    assert "BRISQUE 155.8 (3 at its limit, whatever they show)" in said


def test_what_is_there_is_replaced_with_force_only(folders, tmp_path):
    command = ["protect", "noise", "--instance", folders.instance, "--out", tmp_path / "p"]
    cli(*command)
    before = digests_of(tmp_path / "p")

    with pytest.raises(Exception, match=r"is there already\. Add --force"):
        cli(*command, "--set", "budget=3/255")
    assert digests_of(tmp_path / "p") == before

    assert "L∞ 3/255" in cli(*command, "--set", "budget=3/255", "--force")


def test_a_folder_that_is_called_like_a_method_stands_in_no_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (90, 90, 90)).save("a.png")
    cli("protect", "noise", "--instance", "a.png", "--out", "noise")

    assert "1 photo" in cli("protect", "noise", "--instance", "noise", "--out", "twice")


def test_class_images_say_where_a_training_finds_them(tiny_model: ModelSpec, tmp_path):
    sampling = json.dumps({"images": 2, "steps": 1})
    out = tmp_path / "of class"

    said = cli("class-images", "--model", tiny_model.path, "--sampling", sampling, "--out", out)

    named = shlex.split(said.partition("; next: ")[2])
    assert len(photo_files(Path(named[named.index("--class-images") + 1]))) == 2


def test_two_photos_are_compared_whatever_they_are_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("mine.png", 90), ("theirs.png", 97)):
        Image.new("RGB", (64, 64), (value, value, value)).save(name)

    [row] = json.loads(cli("distances", "theirs.png", "mine.png", "--json"))

    assert (row["photo"], row["linf"]) == ("mine", 7)


@pytest.mark.parametrize("size", [128, 130])
def test_the_miniature_says_what_it_is_worth_on_larger_photos(size, tmp_path, monkeypatch):
    monkeypatch.setattr("cloakbench.stages.purify.purify", lambda *_, **__: None)
    monkeypatch.setattr("cloakbench.cli.stages.compared", lambda *_: {"photos": 1})
    monkeypatch.chdir(tmp_path)  # from any folder
    Image.new("RGB", (size, size)).save(tmp_path / "a.png")

    said = cli("purify", "latent_diffpure", "--photos", "a.png", "--out", "out")

    assert ("130x130 px and the model is the bundled miniature, of 128 px" in said) == (size > 128)
    assert ("protects nothing from Stable Diffusion. Name a model" in said) == (size > 128)


def test_a_folder_without_sets_is_split_aloud(tmp_path, monkeypatch):
    (tmp_path / "people" / "anna").mkdir(parents=True)
    for number in range(8):
        photo = Image.new("RGB", (64, 64), (30 * number, 90, 90))
        photo.save(tmp_path / "people" / "anna" / f"IMG_{number}.png")

    monkeypatch.chdir(tmp_path / "people")

    said = cli("data", ".", "anna", "--resolution", 64, "--out", "out")

    assert said.startswith("8 photos → ")
    assert "set_B (to protect): IMG_2.png, IMG_3.png\n" in said
    assert "set_C (to judge by): IMG_4.png, IMG_5.png, IMG_6.png, IMG_7.png\n" in said
    assert "To protect all of them, at their own sizes: cloakbench try FOLDER" in said


@pytest.mark.parametrize(("size", "model"), [(128, "--set preset=mini"), (512, "--model MODEL")])
def test_what_may_follow_the_crops_is_a_protection_and_no_control(size, model, dataset, tmp_path):
    said = cli("data", dataset, "anna", "--resolution", size, "--out", tmp_path / "out")

    following = f"cloakbench protect pid --instance {tmp_path / 'out' / 'set_B'} {model}\n"
    assert said.endswith(f"; next: {following}")


def test_sets_that_are_there_are_not_talked_about(dataset, tmp_path):
    said = cli("data", dataset, "anna", "--resolution", 64, "--out", tmp_path / "out")

    assert said.startswith("6 photos → ")
    assert said.count("\n") == 1


def test_the_catalogue_has_a_line_for_each_method_and_none_is_longer_than_80():
    lines = cli("methods").splitlines()

    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  aspl ") for line in lines)
    assert sum(line.endswith("...") for line in lines) < len(lines) / 2
    assert len(lines) < 90


def test_a_method_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOAKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    needs = {e["name"]: e["needs"] for e in json.loads(cli("methods", "--json"))}

    assert needs["aspl"] == ["model", "surrogate_images", "class_images"]
    assert needs["noise"] == []
    assert needs["diffpure"] == ["gpu"]
    assert "Needs: the diffusion model, better on a GPU; set_A" in cli("methods", "aspl")
    assert "Weights: lpips/vgg16-397923af.pth: no such weights" in cli("methods", "glaze")


def test_a_methods_settings_are_written_as_a_config_takes_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = cli("methods", "aspl")

    [paper] = re.findall(r"preset paper.*?: (.*)", said)
    protections.build({"method": "aspl", **yaml.safe_load(paper)})
    for setting in ("faithful", "share"):
        [default] = re.findall(rf"{setting}  +(\S+)", said)
        protections.build(parse_spec("aspl", [f"{setting}={default}"]))


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_asked_for_in_both_ways(option):
    assert "Usage" in cli(option)
    assert "Usage" in cli("protect", option)


def test_a_shell_completes_the_names_of_methods():
    from typer.main import get_command

    from cloakbench.cli.main import app

    [argument] = [p for p in get_command(app).commands["protect"].params if p.name == "method"]

    assert [c.value for c in argument.shell_complete(None, "asp")] == ["aspl", "aspl_lora"]


def test_what_is_missing_is_told_before_torch_is_imported(tmp_path):
    """Which takes seconds: a mistake should take one."""
    commands = [
        ["protect", "aspl", "--instance", str(BUNDLED / "person_000003" / "set_B")],
        ["protect", "pid", "--instance", "nowhere.png"],
        ["purify", "latent_diffpure", "--model", "nowhere", "--photos", str(BUNDLED)],
        ["sample", "--weights", "nowhere"],
    ]
    code = (
        "import sys; from cloakbench.cli.main import app\n"
        f"for command in {commands!r}:\n"
        "    try: app(command)\n"
        "    except Exception as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )

    assert done.stdout.splitlines()[-1] == "False"
    assert len(done.stdout.splitlines()) == 5
