"""Seeds, checkpoints and outputs that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import torch
from conftest import Killed, MortalJob
from hypothesis import given
from hypothesis import strategies as st

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import (
    MANIFEST,
    MARKER,
    check_output,
    copy_folder,
    file_state,
    hold,
    new_file,
    new_folder,
    sha256,
)
from cloakbench.files.weights import sha256_of
from cloakbench.running import jobs
from cloakbench.running.jobs import Job, job_seed
from cloakbench.running.record import Facts
from cloakbench.running.run import Run, close_job

LOOP = """
import os, signal, sys
from pathlib import Path
import torch
from cloakbench.running.jobs import Job

class Total:
    value = torch.zeros(())
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]

total, job = Total(), Job(3, scratch=Path(sys.argv[1]), save_every=1e9)
for step in job.steps("sum", 5, {"total": total}):
    print(step, flush=True)
    if str(step) == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGTERM)
    total.value = total.value * 0.5 + torch.rand((), generator=job.rng("draw", step))
print("total", total.value.item())
"""


def loop(scratch: Path, die_in: int | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOOP, str(scratch), str(die_in)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("die_in", [2, 4])
def test_sigterm_saves_the_state_and_a_rerun_equals_an_uninterrupted_run(die_in, tmp_path):
    whole = loop(tmp_path / "whole", None)
    killed = loop(tmp_path / "scratch", die_in)
    resumed = loop(tmp_path / "scratch", None)

    assert killed.returncode == 128 + signal.SIGTERM
    assert "total" not in killed.stdout
    assert (tmp_path / "scratch" / "sum.pt").exists()
    assert resumed.stdout.split() == whole.stdout.split()[die_in + 1 :]


class Counter:
    """The smallest state: what a loop has added up."""

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.int64)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.value = state["value"]


def count(job: Job, total: int = 6, hook: Callable[[int], None] = lambda step: None) -> list[int]:
    counter, seen = Counter(), []
    for step in job.steps("count", total, {"counter": counter}):
        hook(step)
        counter.value = counter.value + step
        seen.append(step)
    assert int(counter.value) == sum(range(total))
    return seen


def test_a_loop_goes_on_after_its_last_checkpoint(tmp_path):
    with pytest.raises(Killed):
        count(MortalJob(0, scratch=tmp_path, lives=4))

    resumed = count(Job(0, scratch=tmp_path))
    assert resumed[0] > 0
    assert resumed == list(range(resumed[0], 6))


def test_without_a_scratch_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        count(MortalJob(0, lives=4))

    assert count(Job(0)) == list(range(6))
    assert list(tmp_path.iterdir()) == []


class Heavy:
    """A state of many bytes of which none is in memory."""

    def __init__(self, size: float) -> None:
        self.size = int(size)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"value": torch.empty(self.size, dtype=torch.uint8, device="meta")}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        raise AssertionError


def saved(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, size: float, seconds: float, disk: float = 1e9
) -> list[float]:
    """When a loop of 1,000 steps of so many seconds in all saves a state of `size` bytes."""
    now, saves = [0.0], []

    def store(path: Path, value: object) -> None:
        saves.append(now[0])
        now[0] += size / disk

    monkeypatch.setattr(jobs, "store", store)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in Job(0, scratch=scratch).steps("train", 1000, {"state": Heavy(size)}):
        now[0] += seconds / 1000
    return saves


def test_a_loop_that_is_done_before_a_checkpoint_pays_writes_nothing(monkeypatch, tmp_path):
    assert saved(monkeypatch, tmp_path, size=11.8e9, seconds=25) == []
    assert len(saved(monkeypatch, tmp_path, size=1e6, seconds=25)) == 1  # at the end


@pytest.mark.parametrize("disk", [0.5e9, 1e9, 4e9])
def test_saving_takes_a_twentieth_of_the_time_also_at_the_first_time(disk, monkeypatch, tmp_path):
    first, *others = saved(monkeypatch, tmp_path, size=11.8e9, seconds=3000, disk=disk)

    assert first == pytest.approx(20 * 11.8, abs=3)  # by its bytes at 1 GB/s
    assert others[0] - first == pytest.approx(max(30, 21 * 11.8e9 / disk), abs=7)  # as measured


RESUME = """
import os, signal, sys
from pathlib import Path
import torch
from cloakbench.running.jobs import Job

class Holder:
    value = torch.zeros(())
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]

def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) * 1024

holder, job = Holder(), Job(0, scratch=Path(sys.argv[1]))
if sys.argv[2] == "save":
    holder.value = torch.ones(50_000_000)
    for step in job.steps("loop", 3, {"holder": holder}):
        os.kill(os.getpid(), signal.SIGTERM)
import zipfile, torch._weights_only_unpickler  # what the first resume imports
before = memory()
steps = list(job.steps("loop", 3, {"holder": holder}))
print(memory() - before, len(steps), holder.value.sum().item())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_resumed_job_maps_its_checkpoint_instead_of_reading_it_into_memory(tmp_path):
    def run(what: str) -> str:
        command = [sys.executable, "-c", RESUME, str(tmp_path), what]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    run("save")
    taken, steps, total = run("resume").split()

    assert int(steps) < 3
    assert float(total) == 50_000_000
    assert int(taken) < 50e6  # of 200 MB


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        count(MortalJob(0, scratch=tmp_path, lives=1))
    first = (tmp_path / "count.pt").read_bytes() if (tmp_path / "count.pt").exists() else None

    def half_written(state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(Killed):
        count(MortalJob(0, scratch=tmp_path))
    monkeypatch.undo()

    assert first is None or (tmp_path / "count.pt").read_bytes() == first
    assert count(Job(0, scratch=tmp_path))[-1] == 5


def test_the_signal_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    count(Job(0, scratch=tmp_path), hook=lambda _: inside.append(signal.getsignal(signal.SIGTERM)))

    assert signal.getsignal(signal.SIGTERM) is before
    assert all(handler is not before for handler in inside)


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((0, "protect", "anna"), 5678998936860099259),
        ((0, "personalise", "anna"), 8087519265786131864),
        ((7, "image", "photo", 3), 1124014680617260352),
    ],
)
def test_seeds_are_the_same_in_every_process_and_version(parts, seed):
    assert job_seed(*parts) == seed


@given(root=st.integers(), parts=st.lists(st.text() | st.integers(), max_size=4))
def test_every_seed_fits_a_generator(root, parts):
    seed = job_seed(root, *parts)

    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)


def test_parts_are_kept_apart():
    seeds = {job_seed(0, "ab", "c"), job_seed(0, "a", "bc"), job_seed(0, "abc"), job_seed(1, "abc")}

    assert len(seeds) == 4


def test_a_purpose_has_its_own_stream_that_starts_afresh():
    job = Job(0)

    def draw(*purpose: object) -> float:
        return torch.rand((), generator=job.rng(*purpose)).item()

    assert draw("pgd", 1) == draw("pgd", 1)
    assert len({draw("pgd", 1), draw("pgd", 2), draw("train", 1)}) == 3


def job_of(run: Run, stage: str, settings: object = None, photos: Path | None = None) -> Job:
    return run.job(run.record(Facts(stage, settings), photos=photos))


def test_compared_cells_share_their_seed_and_identities_do_not(tmp_path):
    run = Run(tmp_path / "aspl", "anna", seed=4)
    other_cell = replace(run, out=tmp_path / "noise")

    aspl, noise = job_of(run, "protect", "aspl"), job_of(other_cell, "protect", "noise")
    assert aspl.seed == noise.seed
    assert aspl.seed != job_of(replace(run, identity="bert"), "protect").seed
    assert aspl.seed != job_of(run, "personalise").seed


def test_scratch_is_shared_by_the_same_work_only(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "01.png").write_bytes(b"one")
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")

    first = job_of(run, "protect", {"budget": 1}, photos).scratch
    assert job_of(run, "protect", {"budget": 1}, photos).scratch == first
    first.mkdir(parents=True)
    other_settings = job_of(run, "protect", {"budget": 2}, photos).scratch
    assert not first.exists()
    (photos / "01.png").write_bytes(b"other")
    other_photos = job_of(run, "protect", {"budget": 1}, photos).scratch

    assert len({first, other_settings, other_photos}) == 3


@pytest.fixture
def twins(tmp_path: Path) -> list[Path]:
    """Two files of one size and one time, as an archive leaves them."""
    paths = [tmp_path / "photos" / name for name in ("1.bmp", "2.bmp")]
    paths[0].parent.mkdir()
    for path, content in zip(paths, (b"one", b"two"), strict=True):
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
    return paths


def swap(paths: list[Path]) -> None:
    one, two = paths
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def overwrite(paths: list[Path]) -> None:
    time.sleep(0.05)  # more than a tick of the file system's clock
    for path in paths:
        path.write_bytes(b"new")
        os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize("change", [swap, overwrite])
def test_a_change_of_equal_size_and_time_is_seen(change, twins, tmp_path):
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")
    cache = tmp_path / "digests.json"
    for _ in range(2):
        before = sha256_of(twins, cache)
        scratch = job_of(run, "protect", photos=twins[0].parent).scratch
        assert job_of(run, "protect", photos=twins[0].parent).scratch == scratch
    states = [*map(file_state, twins)]
    change(twins)

    assert sha256_of(twins, cache) == {path: sha256(path) for path in twins} != before
    assert not set(map(file_state, twins)) & set(states)
    assert job_of(run, "protect", photos=twins[0].parent).scratch != scratch


@pytest.mark.parametrize("content", [b"[]", b"[1]", b"7", b"\xff", b"{"])
def test_a_cache_of_digests_that_is_damaged_is_written_anew(content, twins, tmp_path):
    cache = tmp_path / "digests.json"
    cache.write_bytes(content)

    assert sha256_of(twins, cache) == {path: sha256(path) for path in twins}
    assert len(json.loads(cache.read_text())) == 2


def test_a_file_that_may_not_be_read_is_named(twins, tmp_path, monkeypatch):
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CloakBenchError, match=r"1\.bmp: cannot be read\. Change its permissions"):
        sha256_of(twins, tmp_path / "digests.json")


def test_a_job_resumes_though_its_inputs_lost_the_names_that_were_kept(tmp_path):
    first = Run(tmp_path / "first", "anna", scratch=tmp_path / "scratch")
    record = first.record(Facts("protect", None))
    with first.output(first.job(record), record) as folder:
        (folder / "1.png").write_bytes(b"photo")
    assert list((tmp_path / "scratch").rglob("*.kept/1.png"))
    second = replace(first, out=tmp_path / "second")
    scratch = job_of(second, "purify", photos=first.out).scratch

    assert not list((tmp_path / "scratch").rglob("*.kept/1.png"))
    time.sleep(0.05)
    assert job_of(second, "purify", photos=first.out).scratch == scratch


def test_a_finished_job_forgets_its_checkpoints(tmp_path):
    job = Job(0, scratch=tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    close_job(job)

    assert not (tmp_path / "scratch").exists()


def die_after_writing(path: Path) -> None:
    path.write_text("half")
    raise Killed


def test_a_folder_appears_whole_with_its_manifest(tmp_path):
    with new_folder(tmp_path / "a" / "out", {"stage": "test"}) as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "a" / "out").exists()

    manifest = json.loads((tmp_path / "a" / "out" / MANIFEST).read_text())
    digest = hashlib.sha256(b"new").hexdigest()
    assert manifest == {"stage": "test", "files": {"file": digest}}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]


def test_a_failed_folder_leaves_the_old_one_and_no_rubbish(tmp_path):
    with new_folder(tmp_path / "out", {"stage": "old"}):
        pass

    with pytest.raises(Killed), new_folder(tmp_path / "out", {"stage": "new"}) as folder:
        die_after_writing(folder / "half")

    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["stage"] == "old"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    with new_folder(tmp_path / "out", {"stage": "old"}):
        pass
    move = os.replace

    def refuse(source: Path, target: Path) -> None:
        if source.name == ".out.part":
            raise OSError("the disk has gone")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse)

    with pytest.raises(OSError, match="has gone"), new_folder(tmp_path / "out", {"stage": "new"}):
        pass

    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["stage"] == "old"


def test_a_folder_that_waited_when_a_process_was_killed_is_back(tmp_path):
    """Between the two renames there is none; what fails next leaves the old one, as ever."""
    with new_folder(tmp_path / "out", {"stage": "old"}):
        pass
    (tmp_path / "out").rename(tmp_path / ".out.old.part")

    with pytest.raises(Killed), new_folder(tmp_path / "out", {"stage": "new"}) as folder:
        die_after_writing(folder / "half")

    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["stage"] == "old"


def test_what_a_job_takes_while_it_writes_is_in_its_manifest(tmp_path, monkeypatch):
    """Samples are drawn into their folder, and may need more than the training before."""
    taken = [5e9]
    monkeypatch.setattr("cloakbench.running.run.peak_memory", lambda _: {"bytes": taken[-1]})
    run = Run(tmp_path / "out", "anna")
    record = run.record(Facts("sample", None))
    job = run.job(record)

    with run.output(job, record):
        taken.append(14e9)
        job.notes["images"] = 3.0

    said = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (said["took"], said["notes"]) == ({"bytes": 14e9}, {"images": 3.0})


def test_what_a_killed_process_left_does_not_leak_into_the_next_folder(tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "stale").write_text("")

    with new_folder(tmp_path / "out", {}):
        pass

    assert {p.name for p in (tmp_path / "out").iterdir()} == {MARKER, MANIFEST}


def test_a_folder_is_replaced_only_if_everything_in_it_was_written_by_a_stage(tmp_path):
    out = tmp_path / "out"
    with new_folder(out, {"stage": "protect"}) as folder:
        (folder / "photo").mkdir()
        (folder / "photo" / "000.png").touch()
    check_output(out)
    (out / MANIFEST).unlink()  # as Snakemake does before it runs the job again
    check_output(out)

    (out / "photo" / "notes.txt").touch()
    with pytest.raises(CloakBenchError, match=r"holds photo/notes\.txt, which CloakBench did not"):
        check_output(out)


def test_a_link_that_lies_where_a_file_is_written_leads_nowhere(tmp_path):
    other, out = tmp_path / "other", tmp_path / "here" / "d.csv"
    other.write_text("precious")
    out.parent.mkdir()
    for link in (out, out.with_name(".d.csv.part")):
        link.symlink_to(other)

    with new_file(out) as first, new_file(out) as second:
        assert first != second
        assert stat.S_IMODE(first.stat().st_mode) == 0o666 & ~umask()
        first.write_text("1")
        second.write_text("2")

    assert other.read_text() == "precious"
    assert not out.is_symlink()


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def test_what_a_kill_left_of_a_file_is_not_copied_with_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "a" / "1.png") as part:
        (tmp_path / "a" / ".left.part").touch()
        part.unlink()
    (tmp_path / "a" / "2.png").touch()

    copy_folder(tmp_path / "a", tmp_path / "b")

    assert [path.name for path in (tmp_path / "b").iterdir()] == ["2.png"]


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_is_not_held_through_a_link(plant, tmp_path):
    (tmp_path / "other").write_text("precious")
    plant(tmp_path / "lock", tmp_path / "other")

    with pytest.raises(CloakBenchError, match=r"lock: "):
        hold(tmp_path / "lock")
    assert (tmp_path / "other").read_text() == "precious"


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()

    for lock in (tmp_path / "pipe", tmp_path, tmp_path / "file" / "lock"):
        with pytest.raises(CloakBenchError, match=str(tmp_path)):
            hold(lock)


def test_a_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text("process 1234567890 on a machine with a long name")

    assert hold(tmp_path / "lock") is None
    assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}"


@pytest.mark.parametrize("out", ["photos", ".", "photos/..", ".."])
def test_an_output_never_replaces_what_is_read_or_the_current_folder(out, tmp_path, monkeypatch):
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    with pytest.raises(CloakBenchError, match=r"would replace .*Choose another --out"):
        Run(Path(out), "anna").record(Facts("protect", None), photos=Path("photos"))


def test_an_output_that_cannot_be_written_fails_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        Run(tmp_path / "file" / "sub" / "out", "anna").record(Facts("protect", None))


def test_a_failed_file_leaves_the_old_one_and_no_rubbish(tmp_path):
    path = tmp_path / "scores.csv"
    with new_file(path) as part:
        part.write_text("old")

    with pytest.raises(Killed), new_file(path) as part:
        die_after_writing(part)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is done to the disk, in order: the names of what it waits for, and of what appears."""
    done: list[tuple[str, str]] = []
    wait, move = os.fsync, os.replace

    def fsync(opened: int) -> None:
        done.append(("on disk", Path(os.readlink(f"/proc/self/fd/{opened}")).name))
        wait(opened)

    def rename(old: Path, new: Path) -> None:
        done.append(("appears", Path(new).name))
        move(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return done


def test_a_file_is_on_the_disk_before_it_appears(disk, tmp_path):
    with new_file(tmp_path / "a.pt") as part:
        part.write_bytes(b"weights")

    assert disk == [("on disk", part.name), ("appears", "a.pt")]


def test_all_of_a_folder_is_on_the_disk_before_it_appears_and_that_it_did_before_more(
    disk, tmp_path
):
    with new_folder(tmp_path / "out", {}) as folder:
        (folder / "photo").mkdir()
        (folder / "photo" / "1.png").write_bytes(b"image")

    *waits, appears, last = disk
    assert {name for _, name in waits} == {".out.part", "photo", "1.png", MARKER, MANIFEST}
    assert {what for what, _ in waits} == {"on disk"}
    assert (appears, last) == (("appears", "out"), ("on disk", tmp_path.name))


@pytest.mark.parametrize("name", ["a" * 250, "a" * 255, "\N{GREEK SMALL LETTER ALPHA}" * 127])
def test_files_and_folders_may_have_the_longest_names_that_there_are(name, tmp_path):
    with new_file(tmp_path / "files" / name) as part:
        part.write_text("new")
    with new_folder(tmp_path / "folders" / name, {}, tmp_path / "kept") as folder:
        (folder / "file").write_text("new")

    assert (tmp_path / "files" / name).read_text() == "new"
    assert (tmp_path / "folders" / name / "file").read_text() == "new"
    assert len([*tmp_path.rglob("*.part")]) == 0
