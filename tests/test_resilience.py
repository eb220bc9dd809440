"""Nothing is lost: kills, second runs, full and read-only disks, and too little memory."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import BUNDLED, REPOSITORY, Folders, Killed, MortalJob, smooth_photos
from test_jobs import Counter

from cloakbench.errors import CloakBenchError, explain_failure
from cloakbench.files.images import load_photos, save_photos
from cloakbench.files.outputs import MANIFEST
from cloakbench.models import device
from cloakbench.models.device import with_model
from cloakbench.models.loading import load_model
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.protect.metacloak import Checkpoints
from cloakbench.running import jobs
from cloakbench.running.jobs import Job, Pixels, sweep
from cloakbench.running.record import Facts
from cloakbench.running.run import Run
from cloakbench.stages import personalise, protect, purify, sample

TRAINER = {"method": "dreambooth", "preset": "tiny", "prior_weight": 0}
SAMPLING = Sampling(images=3, steps=2, sampler="ddim", guidance=2.0)


def contents(folder: Path) -> dict[str, Any]:
    """All files; of manifests what they say, but for how long the work took."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    found: dict[str, Any] = {str(name): path.read_bytes() for name, path in files.items()}
    for name in found.keys() & {MANIFEST}:
        found[name] = {k: v for k, v in json.loads(found[name]).items() if k != "took"}
    return found


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving takes no time, so that a job that saves every 0 seconds saves after every step."""
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: 0.0))


# Kills


def test_a_killed_study_ends_with_the_same_bytes(tiny_model, tiny_weights, tmp_path):
    """The short version of `python tools/kill_and_resume.py`, up to the samples."""
    if not BUNDLED.is_dir():
        pytest.skip(f"{BUNDLED} is missing")
    config = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "preset": "tiny",
        "protections": ["noise"],
        "purifications": ["none"],
        "trainers": [{"method": "dreambooth", "steps": 60}],
        "prompts": {"sample": {"photo": "a photo of {identifier} {class_noun}"}},
        "class_images": {"images": 1, "steps": 1, "sampler": "ddim"},
        "sampling": {"images": 4, "steps": 10, "sampler": "ddim", "batch_size": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    tool = REPOSITORY / "tools" / "kill_and_resume.py"
    command = [
        sys.executable,
        tool,
        "--kills",
        "2",
        "--seed",
        "47",
        "--config",
        tmp_path / "tiny.yaml",
    ]
    command += ["--folder", tmp_path / "work", "--until", "personalise"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^[12] kills", run.stdout, re.MULTILINE)  # early: a job may be faster now
    assert re.search(r"\d+ files compared, 0 different", run.stdout)


@pytest.mark.usefixtures("saving")
def test_loops_that_ended_are_not_done_again_for_a_kill_in_a_later_one(tmp_path):
    def both(job: Job) -> list[tuple[str, int]]:
        counters = Counter(), Counter()
        steps = []
        for name, counter in zip(("first", "second"), counters, strict=True):
            for step in job.steps(name, 3, {"counter": counter}):
                counter.value = counter.value + step
                steps.append((name, step))
        assert [int(counter.value) for counter in counters] == [3, 3]
        return steps

    with pytest.raises(Killed):
        both(MortalJob(0, scratch=tmp_path, lives=4))

    assert both(Job(0, scratch=tmp_path)) == [("second", 1), ("second", 2)]


@pytest.fixture
def foreground() -> Iterator[None]:
    """No signal is ignored, as some are where tests run in the background of a script."""
    before = {number: signal.getsignal(number) for number in jobs.STOPPING}
    for number in before:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_stops_a_job_saves_its_state_first(number, tmp_path):
    counter = Counter()
    with pytest.raises(SystemExit) as stopped:
        for step in Job(0, scratch=tmp_path).steps("count", 5, {"counter": counter}):
            counter.value = counter.value + 1
            if step == 2:
                os.kill(os.getpid(), number)

    assert stopped.value.code == 128 + number
    assert list(Job(0, scratch=tmp_path).steps("count", 5, {"counter": counter})) == [3, 4]


@pytest.mark.usefixtures("foreground")
def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        for _ in Job(0, scratch=tmp_path).steps("count", 5, {}):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for _ in Job(0).steps("count", 2, {}):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# Disks that spoil what they keep


def spoilt_middle(content: bytes) -> bytes:
    """A power cut leaves a page of zeros."""
    middle = len(content) // 2
    return content[:middle] + bytes(4096) + content[middle + 4096 :]


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """The checkpoint of a loop of five steps that was killed in its third."""
    with pytest.raises(Killed):
        add_up(MortalJob(0, scratch=tmp_path, lives=2))
    return tmp_path / "count.pt"


def add_up(job: Job) -> torch.Tensor:
    total = Pixels(torch.zeros(64, 64))
    for step in job.steps("count", 5, {"total": total}):
        total.value = total.value + torch.rand(64, 64, generator=job.rng("draw", step))
    return total.value


def resumes_or_starts_anew(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a damage was seen; the result is right in any case."""
    caplog.clear()
    assert torch.equal(add_up(Job(0, scratch=checkpoint.parent)), add_up(Job(0)))
    seen = "count.pt: this checkpoint is damaged" in caplog.text
    assert seen == ("'count' starts anew." in caplog.text)
    assert len(caplog.text.splitlines()) == seen
    return seen


@pytest.mark.usefixtures("saving")
def test_no_flipped_bit_of_a_checkpoint_changes_a_result(counted, caplog):
    content = counted.read_bytes()
    draw = random.Random(0)
    seen = 0
    for place in [*range(0, 200, 10), *draw.sample(range(len(content)), 150)]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << draw.randrange(8)
        counted.write_bytes(spoilt)
        seen += resumes_or_starts_anew(counted, caplog)
    counted.write_bytes(content)

    assert seen > 100
    assert not resumes_or_starts_anew(counted, caplog)


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"half",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        spoilt_middle,
        lambda content: content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_its_loop_starts_anew(damage, counted, caplog):
    counted.write_bytes(damage(counted.read_bytes()))

    assert resumes_or_starts_anew(counted, caplog)


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize("stored", [[torch.zeros(2)], {"step": 3}, {"total": {}}])
def test_a_checkpoint_of_something_else_is_named_and_its_loop_starts_anew(stored, counted, caplog):
    jobs.store(counted, stored)

    assert resumes_or_starts_anew(counted, caplog)


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize("damage", [spoilt_middle, None])
def test_a_damaged_copy_of_a_surrogates_weights_trains_the_surrogate_anew(
    damage, identity, tiny_model, tmp_path, caplog
):
    protection = protections.build({"method": "metacloak", "preset": "tiny", "budget": 11})
    whole = protection.perturb(identity, load_model(tiny_model), Job(0))
    with pytest.raises(Killed):
        protection.perturb(
            identity, load_model(tiny_model), MortalJob(0, scratch=tmp_path, lives=4)
        )
    copy = tmp_path / "weights-0.pt"
    if damage is None:
        copy.unlink()
    else:
        copy.write_bytes(damage(copy.read_bytes()))
    with pytest.raises(CloakBenchError, match=r"weights-0\.pt: this checkpoint is damaged"):
        Checkpoints(tmp_path).load_state_dict({"count": 1})
    job = MortalJob(0, scratch=tmp_path)
    resumed = protection.perturb(identity, load_model(tiny_model), job)

    assert torch.equal(resumed, whole)
    assert job.seen == [("surrogate", 0), ("surrogate", 1), *(("metacloak", n) for n in (2, 3))]
    assert "weights-0.pt: this checkpoint is damaged" in caplog.text
    assert "'surrogate' starts anew." in caplog.text


@pytest.mark.parametrize("share", [0, 0.5])
def test_scratch_images_that_are_cut_or_empty_are_made_again(
    share, tiny_model, tmp_path, monkeypatch
):
    made = []
    generate = Sampling.generate
    monkeypatch.setattr(Sampling, "generate", lambda *args: made.append(args[3]) or generate(*args))
    sampling = Sampling(images=3, steps=2, sampler="ddim", guidance=2.0, batch_size=1)
    samples, model = Samples(sampling, {"photo": "a photo"}), load_model(tiny_model)
    whole, resumed, scratch = (tmp_path / name for name in ("whole", "resumed", "scratch"))
    whole.mkdir()
    resumed.mkdir()
    samples.write(model, Job(5), whole)
    with pytest.raises(Killed):
        samples.write(model, MortalJob(5, scratch=scratch, lives=2), resumed)
    first, _ = sorted((scratch / "photo").iterdir())
    first.write_bytes(first.read_bytes()[: int(share * first.stat().st_size)])
    samples.write(model, Job(5, scratch=scratch), resumed)

    assert contents(resumed) == contents(whole)
    assert made[5:] == [made[0], made[2]]


# Jobs whose end nobody saw


@pytest.fixture
def finished(folders: Folders, tmp_path: Path) -> Run:
    """A purification that ended after its workflow was killed: Snakemake removes its manifest."""
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")
    purify.purify("jpeg", model=ModelSpec(path="none"), photos=folders.instance, run=run)
    (run.out / MANIFEST).unlink()
    return run


def purify_again(run: Run, photos: Path, spec: object = "jpeg") -> None:
    purify.purify(spec, model=ModelSpec(path="none"), photos=photos, run=run)


def never(*_: object, **__: object) -> None:
    raise AssertionError("this work was done before")


def test_a_job_that_ended_unseen_is_not_done_again(finished, folders, tmp_path, monkeypatch):
    other = replace(finished, out=tmp_path / "other")
    purify_again(other, folders.instance)
    monkeypatch.setattr(purify, "with_model", never)
    purify_again(finished, folders.instance)

    assert contents(finished.out) == contents(other.out)


def test_another_setting_does_the_work_again(finished, folders, monkeypatch):
    monkeypatch.setattr(purify, "with_model", never)
    with pytest.raises(AssertionError):
        purify_again(finished, folders.instance, {"method": "jpeg", "quality": 30})


def test_other_code_does_the_work_again(finished, folders, monkeypatch):
    monkeypatch.setattr(purify, "with_model", never)
    monkeypatch.setattr("cloakbench.running.record.code_digest", lambda *modules: "edited")
    with pytest.raises(AssertionError):
        purify_again(finished, folders.instance)


def test_a_job_whose_kept_output_is_damaged_is_done_again(finished, folders, tmp_path, caplog):
    other = replace(finished, out=tmp_path / "other", scratch=tmp_path / "elsewhere")
    purify_again(other, folders.instance)
    [photo] = finished.scratch.rglob("*.kept/01.png")
    photo.write_bytes(photo.read_bytes()[:-1] + b"x")
    purify_again(finished, folders.instance)

    assert f"what was kept of {finished.out} is damaged" in caplog.text
    assert contents(finished.out) == contents(other.out)


def test_what_was_kept_is_forgotten_by_the_next_stage_and_at_the_end(finished, folders, tmp_path):
    purify_again(finished, folders.instance)
    purify_again(replace(finished, out=tmp_path / "next"), finished.out)
    kept = list(finished.scratch.rglob("*.kept"))
    assert len(kept) == 1

    sweep(finished.scratch)
    assert list(finished.scratch.iterdir()) == []


def test_at_the_end_what_another_process_has_locked_stays(tmp_path):
    place = tmp_path / "scratch" / "place"
    place.mkdir(parents=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path / "scratch")
        assert (place / "lock").exists()

    sweep(tmp_path / "scratch")
    assert not place.exists()


def test_at_the_end_checkpoints_of_other_work_stay(tmp_path):
    other = Job(0, scratch=tmp_path / "scratch" / "place" / "work")
    with pytest.raises(Killed):
        list(MortalJob(0, scratch=other.scratch, lives=1).steps("count", 3, {}))
    sweep(tmp_path / "scratch")

    assert list(other.steps("count", 3, {})) == [1, 2]


# Two at once

HOLDER = """
import sys, time
from pathlib import Path
from cloakbench.files.outputs import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold_elsewhere(lock: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLDER, str(lock), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_snakemake_says_so_and_a_killed_one_leaves_no_lock(dataset, tiny_model, tmp_path):
    config = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "datasets": {"bundled": {"path": str(dataset)}},
        "identities": ["anna"],
        "metrics": ["fdfr"],
    }
    default = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(default | config))
    snakemake = [str(Path(sys.executable).with_name("snakemake")), "--until", "data"]
    snakemake += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path)]

    first = hold_elsewhere(tmp_path / "results" / ".running", 600)
    second = subprocess.run(snakemake, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"error: results: process {first.pid} on " in second.stderr
    assert second.stderr.count("runs here. Wait until it ends, or stop it.") == 1
    assert "Traceback" not in second.stderr
    assert not list((tmp_path / "results").rglob(MANIFEST))

    first.kill()
    first.wait()
    third = subprocess.run(snakemake, capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr


def test_a_second_process_waits_for_the_first_to_write_the_same_output(tmp_path, caplog):
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")
    place = run._place(run.out)
    first = hold_elsewhere(place / "lock", 0.5)
    run.job(run.record(Facts("purify", None)))

    assert first.wait(5) == 0
    assert caplog.messages == [
        f"{run.out}: process {first.pid} on {os.uname().nodename} writes this output; "
        "waiting until it ends."
    ]


# Full and read-only disks

DISK = """
import json, os, subprocess, sys
from pathlib import Path
from cloakbench.cli.main import main

disk, commands = Path(sys.argv[1]), json.loads(sys.argv[2])

def attempt(words):
    sys.argv = ["cloakbench", *words]
    try:
        main()
    except SystemExit as stopped:
        return stopped.code or 0

def fill(but):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)): pass
        except OSError:
            file.truncate(file.tell() - but)

mount = ["mount", "-o", "remount,ro", disk]
subprocess.run(mount, check=True)
seen = {name: [attempt(words)] for name, words in commands.items()}
subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
for name, words in commands.items():
    fill(72 * 1024 * ("--scratch" in words))  # some room: these find the disk full later
    seen[name].append(attempt(words))
    (disk / "filler").unlink()
    seen[name] += [[str(path) for path in disk.rglob("*")], attempt(words)]
print(json.dumps(seen))
"""


@pytest.fixture
def commands(dataset, folders, tiny_model, tmp_path) -> dict[str, list[str]]:
    """Commands that write to a disk of their own."""
    from test_score import references_of
    from test_tables import study

    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.experiment.tasks import all_tasks, result
    from cloakbench.faces import backends
    from cloakbench.files.verified import seal

    references = references_of(backends.build("dlib"), anna=[1.0, 0.0])
    references.write(tmp_path / "references.json", {"stage": "references"})
    samples = tmp_path / "samples"
    (samples / "photo").mkdir(parents=True)
    save_photos(smooth_photos(1, 0), samples / "photo")
    study(tmp_path / "study")
    model = tiny_model.model_dump_json()
    disk = tmp_path / "disk"
    config = {
        "experiment": "x", "results": "study", "model": "mini", "dataset": "synthetic",
        "models": {"mini": {"path": tiny_model.path}},
        "datasets": {"synthetic": {"path": str(dataset)}},
        "protections": ["clean"], "purifications": ["none"], "trainers": ["dreambooth"],
    }  # fmt: skip
    experiment = Experiment.parse(config | {"results": str(tmp_path / "study")})
    expected, tasks = Expected(experiment), all_tasks(experiment)
    for task in (*tasks["score"], *tasks["distances"]):
        seal(result(task, experiment), expected.record(task).manifest())
    (tmp_path / "study" / "tables").symlink_to(disk)
    made = {
        "protect": ["noise", "--instance", folders.instance, "--out", disk / "protect"],
        "personalise": [
            *(json.dumps(TRAINER), "--model", model, "--instance", folders.instance),
            *("--out", disk / "personalise", "--scratch", disk / "scratch"),
        ],
        "sample": [
            *("--model", model, "--prompt", "photo=a photo", "--sampling"),
            *('{"images": 8, "steps": 1, "sampler": "ddim"}', "--out", disk / "sample"),
            *("--scratch", disk / "scratch"),
        ],
        "score": [
            *(samples, "--references", tmp_path / "references.json", "--identity", "anna"),
            *("--metric", "brisque", "--output", disk / "scores.csv"),
        ],
        "tables": [json.dumps(config)],
    }
    return {name: [name, *map(str, words)] for name, words in made.items()}


def test_a_full_or_read_only_disk_is_one_clear_line_and_the_same_command_goes_on(
    commands, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    inner = f'mount -t tmpfs -o size=4m tmpfs "{disk}" && exec "$@"'
    script = [sys.executable, "-c", DISK, disk, json.dumps(commands)]
    run = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", inner, "sh", *script],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    if "unshare" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"no disk can be mounted here: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])

    assert list(seen) == list(commands)
    for name, (read_only, full, left, again) in seen.items():
        assert re.fullmatch(
            r"error: .*: cannot be written\. .*run the same command again\.", read_only
        )
        assert re.fullmatch(r"error: .*: the disk is full\. .* finished work is kept\.", full), name
        assert not any(".part" in path for path in left), name
        assert again == 0, name


@pytest.mark.usefixtures("saving")
def test_a_checkpoint_that_finds_the_disk_full_leaves_the_one_before(tmp_path, monkeypatch):
    job = MortalJob(0, scratch=tmp_path)
    real = torch.save

    def full(state: dict, file: object) -> None:
        if state["step"] > 1:
            Path("/dev/full").write_bytes(b"x")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space") as raised:
        list(job.steps("count", 3, {}))

    assert "the disk is full" in str(explain_failure(raised.value))
    assert [path.name for path in tmp_path.iterdir()] == ["count.pt"]
    assert list(Job(0, scratch=tmp_path).steps("count", 3, {})) == [1, 2]


# Too little memory


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch):
    """The U-Net runs out of memory where it stores activations, or gets more than one image."""
    from diffusers import UNet2DConditionModel

    forward = UNet2DConditionModel.forward

    def too_much(unet: UNet2DConditionModel, latents: torch.Tensor, *rest, **options):
        one_image = len(latents) <= 2  # with and without the prompt
        if not (unet.is_gradient_checkpointing if torch.is_grad_enabled() else one_image):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(unet, latents, *rest, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", too_much)


def stage(name: str, model: ModelSpec, folders: Folders, run: Run) -> None:
    match name:
        case "protect":
            spec = {"method": "fsmg", "preset": "tiny", "budget": 11}
            protect.protect(
                spec, model=model, prompts=Prompts(), instance=folders.instance,
                surrogate=folders.surrogate, class_images=folders.class_images, run=run,
            )  # fmt: skip
        case "personalise":
            spec = {"method": "lora", "preset": "tiny", "prior_weight": 0}
            personalise.personalise(
                spec, model=model, prompts=Prompts(), instance=folders.instance, class_images=None,
                run=run,
            )  # fmt: skip
        case "sample":
            sample.sample(
                SAMPLING, model=model, prompts={"photo": "a photo"}, weights=None, run=run
            )


@pytest.mark.parametrize("name", ["protect", "personalise", "sample"])
def test_too_little_memory_has_one_fallback_with_the_same_result(
    name, tiny_model, folders, tmp_path, caplog, request
):
    """Samples may differ by one grey level: a sum of one image is not ordered as one of many."""
    run = Run(tmp_path / "enough", "anna")
    stage(name, tiny_model, folders, run)
    request.getfixturevalue("little_memory")
    frugal = replace(run, out=tmp_path / "little", scratch=tmp_path / "scratch")
    stage(name, tiny_model, folders, frugal)

    [line] = caplog.messages
    assert line.startswith("cpu: out of memory; once more with gradient checkpointing")
    if name == "sample":
        levels = [
            torch.round(load_photos(out / "photo").pixels * 255) for out in (run.out, frugal.out)
        ]
        assert (levels[0] - levels[1]).abs().max() <= 1
    else:
        assert contents(frugal.out) == contents(run.out)


def test_the_fallback_has_the_memory_of_the_first_try(tiny_model, monkeypatch):
    models: list[weakref.ref] = []

    class Model:
        pass

    def load(*_: object, **__: object) -> Model:
        assert all(model() is None for model in models)
        models.append(weakref.ref(model := Model()))
        return model

    def work(load) -> str:
        model = load()
        if len(models) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return type(model).__name__

    monkeypatch.setattr(device, "load_model", load)
    gc.disable()
    try:
        assert with_model(work, tiny_model, "cpu") == "Model"
    finally:
        gc.enable()


def test_kernels_must_repeat_where_they_can_and_vary_with_a_word_where_they_cannot(
    tiny_model, monkeypatch, caplog
):
    """`put_` stands for kernels that vary on a GPU: torch refuses it on the CPU, too."""
    modes: list[int] = []

    def work(load) -> float:
        modes.append(torch.get_deterministic_debug_mode())
        if len(modes) < 3:
            return float(torch.zeros(2).put_(torch.tensor([1]), torch.ones(1)).sum())
        return 0.0

    monkeypatch.setattr(device, "load_model", lambda *_, **__: None)

    assert with_model(work, tiny_model, "cpu") == 1.0
    assert with_model(work, tiny_model, "cpu") == 0.0
    assert modes == [2, 1, 2]
    assert torch.get_deterministic_debug_mode() == 1
    [line] = caplog.messages
    assert line.startswith("put_ does not have a deterministic implementation; going on")


@pytest.mark.parametrize(
    ("method", "advised"),
    [
        (protections.build("aspl"), "set its `faithful`, choose the protection 'aspl_lora', or"),
        (
            protections.build({"method": "aspl", "faithful": True}),
            "bf16, choose the protection 'aspl_lora', or use",
        ),
        (protections.build("metacloak"), "set its `faithful`, choose the protection 'aspl_lora'"),
        (protections.build("fsmg"), "lower its `batch_size`, choose the protection 'aspl_lora', o"),
        (
            protections.build({"method": "fsmg", "batch_size": 1}),
            "bf16, choose the protection 'aspl_lora', or use",
        ),
        (protections.build("advdm"), "time. Set the model's precision to bf16, or use"),
        (trainers.build("dreambooth"), "set its `eight_bit`, choose the trainer 'lora', or use"),
        (
            trainers.build({"method": "dreambooth", "preset": "small"}),
            "bf16, choose the trainer 'lora', or use",
        ),
        (trainers.build("lora"), "time. Set the model's precision to bf16, or use"),
    ],
)
def test_the_advice_where_memory_ends_fits_the_method(method, advised, tiny_model, identity):
    def work(load) -> None:
        def load_too_much():
            raise torch.OutOfMemoryError("CUDA out of memory.")

        if isinstance(method, Trainer):
            method.fit(Hungry(), identity, Job(0))
        method.protect(identity, load_too_much)

    with pytest.raises(CloakBenchError) as raised:
        with_model(work, tiny_model, "cpu")

    assert advised in str(raised.value)
    assert "batch_size" not in str(raised.value) or "batch_size" in type(method).model_fields


def test_where_nothing_else_helps_a_larger_device_does(tiny_model):
    def work(load) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(CloakBenchError, match=r"at a time\. Use a device with more memory; then"):
        with_model(work, tiny_model.model_copy(update={"precision": "bf16"}), "cpu")


def test_a_model_that_the_memory_is_too_small_for_is_no_broken_one(tiny_model, monkeypatch):
    """What a CPU's allocator says while weights are read has the advice of the same error later."""

    def read(*_, **__) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 40 GB")

    monkeypatch.setattr("diffusers.UNet2DConditionModel.from_pretrained", read)

    with pytest.raises(CloakBenchError, match="cpu: out of memory, also with gradient checkpoint"):
        with_model(lambda load: load(), tiny_model, "cpu")


class Hungry:
    """A model that no memory is enough for."""

    def posterior_once(self, pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_float32_is_float32_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    device.set_up_torch(None)

    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_without_memory_for_the_fallback_one_line_says_what_to_change(tiny_model):
    def work(load) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(CloakBenchError, match=r"cpu: out of memory, also with .* bf16") as raised:
        with_model(work, tiny_model, "cpu")

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("Unable to allocate 9. GiB for an array"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_all_words_for_too_little_memory_are_known(error):
    assert "out of memory" in str(explain_failure(error))


def test_safetensors_words_for_a_full_disk_are_known(tmp_path):
    from safetensors import SafetensorError

    error = SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    assert "the disk is full" in str(explain_failure(error))
    assert explain_failure(ZeroDivisionError()) is None
