"""The command line: help, the catalogue, stages by hand, and one-line errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Folders
from PIL import Image
from typer.testing import CliRunner

from cloakbench import __version__
from cloakbench.cli import main
from cloakbench.cli.main import app
from cloakbench.experiment.catalogue import REGISTRIES
from cloakbench.files.images import load_photos
from cloakbench.models.spec import ModelSpec

COMMANDS = [
    "data", "class-images", "protect", "purify", "personalise", "sample", "references", "score",
    "distances", "check", "status", "tables", "report", "compare", "manifest", "methods", "schema",
    "synth", "pretrain",
]  # fmt: skip


def cli(*arguments: object) -> str:
    """Output of a command that succeeds."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command that fails as `cloakbench` does; returns its one line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cloakbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        line = str(stopped.value.code)  # sys.exit prints a text and exits with code 1
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return run


def test_help_lists_every_command():
    output = cli("--help")

    assert all(re.search(rf"│ {command}\b", output) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    assert re.search(rf"Example:\s+cloakbench\s+{command}\b", cli(command, "--help"))


def test_methods_as_json_cover_every_registry_with_every_setting():
    entries = json.loads(cli("methods", "--json"))

    found = {(e["kind"], e["name"]): {s["name"] for s in e["settings"]} for e in entries}
    expected = {(r.kind, m.name): set(m.model_fields) for r in REGISTRIES for m in r}
    assert found == expected
    assert all(entry["summary"] and entry["source"] for entry in entries)
    assert all(setting["description"] for entry in entries for setting in entry["settings"])


def test_the_table_of_methods_names_them_all_and_one_is_shown_in_full():
    table = cli("methods")
    assert all(method.name in table for registry in REGISTRIES for method in registry)

    one = cli("methods", "aspl")
    assert "training_steps" in one
    assert "2303.15433" in one
    assert "quality" not in one


def test_the_schema_command_writes_what_it_prints(tmp_path):
    cli("schema", "--out", tmp_path / "schema.json")

    assert (tmp_path / "schema.json").read_text() == cli("schema")


def test_the_version_is_said():
    assert cli("--version") == f"cloakbench {__version__}\n"


def test_a_manifest_is_printed_as_it_is_and_a_missing_or_damaged_one_is_one_line(failing, tmp_path):
    text = '{\n  "stage": "protect",\n  "files": {}\n}\n'
    (tmp_path / "job.json").write_text(text)
    assert cli("manifest", tmp_path) == text

    for damaged in (text[:-4], "[1]", "\0"):
        (tmp_path / "job.json").write_text(damaged)
        assert f"job.json: is damaged. Make {tmp_path} again." in failing("manifest", tmp_path)
    (tmp_path / "job.json").unlink()
    assert "job.json: not there to read. Name a folder" in failing("manifest", tmp_path)
    (tmp_path / "scores.csv").write_text("ism\n0.5\n")
    (tmp_path / "scores.csv.job.json").write_text(text)
    assert cli("manifest", tmp_path / "scores.csv") == text


def test_a_folder_of_other_files_is_not_replaced(failing, folders, tmp_path):
    """Nor is it where only some are other ones: what CloakBench wrote has a mark."""
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")

    line = failing("protect", "noise", "--instance", folders.instance, "--out", thesis.parent)

    assert "holds thesis.tex, which CloakBench did not write and would delete" in line
    assert thesis.read_text() == "years of work"


def test_a_result_is_replaced_also_without_its_manifest_and_through_a_link(folders, tmp_path):
    """Snakemake removes the manifest, its output, before it runs a job again."""
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for out, budget in (("out", "3/255"), ("link", "5/255")):
        cli(
            "protect", "noise", "--set", f"budget={budget}", "--instance", folders.instance,
            "--out", tmp_path / out, "--force",
        )  # fmt: skip
        manifest = json.loads((tmp_path / "out" / "job.json").read_text())
        assert manifest["settings"]["budget"] == budget
        (tmp_path / "out" / "job.json").unlink()
    assert (tmp_path / "link").is_symlink()


def test_a_missing_model_is_one_line_before_any_photo_is_changed(failing, folders, tmp_path):
    line = failing(
        "protect", "aspl", "--instance", folders.instance, "--surrogate", folders.surrogate,
        "--class-images", folders.class_images, "--model", tmp_path, "--out", tmp_path / "out",
    )  # fmt: skip

    assert "no model_index.json there. Give a folder" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.png", b"", "bad.png: is empty"),
        ("bad.png", b"text", "bad.png: is not an image"),
        ("notes.txt", b"text", "notes.txt: not a photo"),
    ],
)
def test_a_bad_file_among_the_photos_is_named(name, content, message, failing, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / name).write_bytes(content)

    line = failing("purify", "jpeg", "--photos", tmp_path / "photos", "--out", tmp_path / "out")
    assert message in line


def test_an_output_below_a_file_cannot_be_written(failing, folders, tmp_path):
    (tmp_path / "file").write_text("")

    for out in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        line = failing("purify", "jpeg", "--photos", folders.instance, "--out", out)
        assert re.search(r"file.*: a file is where a folder is needed.*Choose another path", line)


def test_there_are_never_more_threads_than_cores(monkeypatch, folders, tmp_path):
    set_to: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", set_to.append)
    monkeypatch.setattr("os.cpu_count", lambda: 4)

    for threads in (3, 1_000_000):
        cli("purify", "jpeg", "--photos", folders.instance, "--out", tmp_path / str(threads),
            "--threads", threads)  # fmt: skip

    assert set_to == [3, 4]


def test_a_picture_replaces_no_photo_of_the_experiment(failing, dataset, tiny_model, tmp_path):
    config = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "datasets": {"bundled": {"path": str(dataset)}},
        "results": str(tmp_path / "results"),
    }
    (tmp_path / "update.yaml").write_text(json.dumps(config))
    read = [dataset / "anna" / "set_A" / "01.png", Path(tiny_model.path) / "x.png"]

    for out in (*read, tmp_path / "results" / "mini" / "x.png"):
        line = failing("picture", REPOSITORY / "config.yaml", tmp_path / "update.yaml",
                       "--identity", "anna", "-o", out)  # fmt: skip
        assert f"{out}: is, or lies in, " in line


def test_an_output_that_is_the_input_is_refused(failing, folders):
    before = load_photos(folders.instance)

    line = failing("purify", "jpeg", "--photos", folders.instance, "--out", folders.instance)

    assert "would replace" in line
    assert load_photos(folders.instance).names == before.names


@pytest.mark.parametrize("number", [13, 28, 30])
def test_a_disk_that_is_full_or_read_only_is_one_line(
    number, failing, monkeypatch, folders, tmp_path
):
    def fail(*_: object) -> None:
        raise OSError(number, "reason", str(tmp_path / "out"))

    monkeypatch.setattr("cloakbench.stages.purify.save_photos", fail)
    line = failing("purify", "jpeg", "--photos", folders.instance, "--out", tmp_path / "out")

    assert re.search(
        r"out: (the disk is full|cannot be written)\..* run the same command again", line
    )


def test_a_bug_keeps_its_traceback(monkeypatch, folders, tmp_path):
    """Only what a user can mend becomes one line."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cloakbench.stages.purify.load_photos", broken)
    arguments = ["purify", "jpeg", "--photos", folders.instance, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["cloakbench", *map(str, arguments)])
    with pytest.raises(ZeroDivisionError):
        main()


def test_the_installed_command_prints_one_line_and_exits_with_one(tmp_path):
    command = Path(sys.executable).with_name("cloakbench")
    arguments = ["purify", "jpg", "--photos", tmp_path, "--out", tmp_path / "out"]
    result = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert re.fullmatch(r"error: unknown purification 'jpg': did you mean .*\n", result.stderr)
    assert result.stdout == ""


def test_checking_a_config_says_what_will_run(tiny_model, dataset, tmp_path):
    import yaml

    update = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "datasets": {"bundled": {"path": str(dataset)}},
        "identities": None,
        "protections": ["clean", "noise", "aspl"],
        "purifications": ["none"],
        "trainers": ["dreambooth", "cdl"],
        "sampling": {"images": 8},
    }
    (tmp_path / "update.yaml").write_text(yaml.safe_dump(update))

    output = cli("check", REPOSITORY / "config.yaml", tmp_path / "update.yaml")

    assert "identities: anna, bert" in output
    assert "protections: clean, noise, aspl" in output
    assert "cells: 12, 16 samples each" in output
    assert "split" not in output


def test_photos_that_a_study_splits_are_told_before_it_runs(tiny_model, dataset, tmp_path):
    people = tmp_path / "people"
    shutil.copytree(dataset, people)
    for number, photo in enumerate(sorted((people / "anna").glob("*/*.png"))):
        photo.rename(people / "anna" / f"IMG_{number}.png")
    for folder in (people / "anna").glob("set_*"):
        folder.rmdir()
    update = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "datasets": {"bundled": {"path": str(people)}},
        "identities": None,
        "protections": ["noise"],
        "purifications": ["none"],
        "trainers": ["none"],
    }
    (tmp_path / "update.yaml").write_text(json.dumps(update))

    for command in ("check", "plan"):
        output = cli(command, REPOSITORY / "config.yaml", tmp_path / "update.yaml")
        assert "split: 1 person without set_A, set_B, set_C: of the photos, by" in output
        assert "2 are for surrogates, 2 are protected, and samples are compared with 2" in output


def test_the_stages_can_be_run_by_hand_from_photos_to_samples(
    dataset: Path, tiny_model: ModelSpec, folders: Folders, tmp_path: Path
):
    sampling = '{"images": 1, "steps": 2, "sampler": "ddim"}'
    model = ["--model", tiny_model.path]
    classes = ["--class-images", folders.class_images]
    tiny = "--set=preset=tiny"
    photos, protected, pure, weights, samples = (tmp_path / name for name in "ABCDE")

    cli("data", dataset, "anna", "--out", photos, "--resolution", 64)
    cli("protect", "aspl", tiny, "--instance", photos / "set_B", "--surrogate", photos / "set_A",
        *classes, *model, "--out", protected)  # fmt: skip
    cli("purify", '["resize", {"method": "jpeg", "quality": 50}]', "--photos", protected,
        "--out", pure)  # fmt: skip
    cli("personalise", "cdl", tiny, "--instance", pure, *classes, *model, "--out", weights)
    cli("sample", "--weights", weights, "--prompt", "photo=a photo of sks person", *model,
        "--sampling", sampling, "--suffix", ", without x", "--out", samples)  # fmt: skip

    manifests = [json.loads((p / "job.json").read_text()) for p in (photos, protected, pure)]
    assert [manifest["stage"] for manifest in manifests] == ["data", "protect", "purify"]
    assert Image.open(samples / "photo" / "000.png").size == (64, 64)
    said = json.loads((samples / "job.json").read_text())["settings"]["prompts"]
    assert said == {"photo": "a photo of sks person, without x"}


def test_class_images_are_sampled_from_the_unsuffixed_class_prompt(tiny_model, tmp_path):
    sampling = '{"images": 3, "steps": 1, "sampler": "ddim", "batch_size": 2}'
    cli("class-images", "--model", tiny_model.path, "--sampling", sampling,
        "--out", tmp_path / "class")  # fmt: skip

    settings = json.loads((tmp_path / "class" / "job.json").read_text())["settings"]
    assert settings["prompts"] == {"class": "a photo of person"}
    assert len(list((tmp_path / "class" / "class").glob("*.png"))) == 3


def imported(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_reading_a_config_imports_no_slow_library():
    """Snakemake reads it for every job, and `--help` must be quick."""
    modules = imported(
        "import cloakbench.cli; from cloakbench.experiment import experiment; "
        "[each.names() for each in (experiment.protections, experiment.purifiers, "
        "experiment.trainers, experiment.backends, experiment.metrics)]"
    )

    assert not modules & {
        "torch",
        "diffusers",
        "transformers",
        "torchvision",
        "onnxruntime",
        "dlib",
    }


def test_units_in_brackets_are_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

    assert "[grey levels of 255]" in cli("methods", "aspl")


def test_a_method_without_a_network_takes_no_gpu(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("cloakbench.models.device.claim_gpu", lambda: pytest.fail("took a GPU"))

    cli("protect", "noise", "--instance", folders.instance, "--out", tmp_path / "noise")
    cli("purify", '["resize", "jpeg"]', "--photos", folders.instance, "--out", tmp_path / "jpeg")


def test_photos_and_class_images_of_two_sizes_are_named(failing, folders, tiny_model, tmp_path):
    small = tmp_path / "class"
    small.mkdir()
    for path in folders.class_images.iterdir():
        Image.open(path).resize((32, 32)).save(small / path.name)

    line = failing("personalise", "dreambooth", "--instance", folders.instance, "--class-images",
                   small, "--model", tiny_model.path, "--out", tmp_path / "out")  # fmt: skip
    assert f"{small}: photos of 32x32 px, but {folders.instance} has 64x64 px" in line


@pytest.mark.parametrize("method", ["noise", "aspl"])
def test_settings_on_the_command_line_are_the_ones_that_run(
    method, folders, tiny_model, identity, tmp_path
):
    cli("protect", method, "--set", "preset=tiny", "--set", "budget=3/255", "--instance",
        folders.instance, "--surrogate", folders.surrogate, "--class-images",
        folders.class_images, "--model", tiny_model.path, "--out", tmp_path / "out")  # fmt: skip

    manifest = json.loads((tmp_path / "out" / "job.json").read_text())
    assert manifest["settings"]["budget"] == "3/255"
    change = load_photos(tmp_path / "out").pixels - identity.instance_images.pixels
    assert (change * 255).abs().max() < 3.01
