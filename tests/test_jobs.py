"""Seeds, checkpoints and outputs that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch
from conftest import Killed, MortalJob
from hypothesis import given
from hypothesis import strategies as st

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import MANIFEST, MARKER, new_file, new_folder
from cloakbench.running.jobs import Job, job_seed
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


def test_compared_cells_share_their_seed_and_identities_do_not(tmp_path):
    run = Run(tmp_path / "aspl", "anna", seed=4)
    other_cell = replace(run, out=tmp_path / "noise")

    aspl, noise = run.job("protect", {"method": "aspl"}), other_cell.job("protect", {"method": "n"})
    assert aspl.seed == noise.seed
    assert aspl.seed != replace(run, identity="bert").job("protect", {}).seed
    assert aspl.seed != run.job("personalise", {}).seed


def test_scratch_is_shared_by_the_same_work_only(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "01.png").write_bytes(b"one")
    run = Run(tmp_path / "out", "anna", scratch=tmp_path / "scratch")

    first = run.job("protect", {"budget": 1}, photos).scratch
    assert run.job("protect", {"budget": 1}, photos).scratch == first
    first.mkdir(parents=True)
    other_settings = run.job("protect", {"budget": 2}, photos).scratch
    assert not first.exists()
    (photos / "01.png").write_bytes(b"other")
    other_photos = run.job("protect", {"budget": 1}, photos).scratch

    assert len({first, other_settings, other_photos}) == 3


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


def test_what_a_killed_process_left_does_not_leak_into_the_next_folder(tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "stale").write_text("")

    with new_folder(tmp_path / "out", {}):
        pass

    assert {p.name for p in (tmp_path / "out").iterdir()} == {MARKER, MANIFEST}


@pytest.mark.parametrize("out", ["photos", ".", "photos/..", ".."])
def test_an_output_never_replaces_what_is_read_or_the_current_folder(out, tmp_path, monkeypatch):
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    with pytest.raises(CloakBenchError, match=r"would replace .*Choose another --out"):
        Run(Path(out), "anna").job("protect", {}, Path("photos"))


def test_an_output_that_cannot_be_written_fails_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        Run(tmp_path / "file" / "sub" / "out", "anna").job("protect", {})


def test_a_failed_file_leaves_the_old_one_and_no_rubbish(tmp_path):
    path = tmp_path / "scores.csv"
    with new_file(path) as part:
        part.write_text("old")

    with pytest.raises(Killed), new_file(path) as part:
        die_after_writing(part)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
