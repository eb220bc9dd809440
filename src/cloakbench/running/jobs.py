"""Jobs: where seeds come from, and loops that survive being killed."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cloakbench.errors import CloakBenchError, is_out_of_memory, reason
from cloakbench.files.outputs import is_held, new_file

if TYPE_CHECKING:
    from torch import Generator, Tensor

log = logging.getLogger(__name__)

LOCK = "lock"
KEPT = ".kept"
"""What `run.Run` puts into an output's scratch folder beside checkpoints."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A scheduler's time limit or `scancel`, Ctrl-C, a closed terminal."""


DISK = 1e9  # bytes/s that a disk is taken to write before it has been measured

Draw = Callable[..., "Generator"]
"""Makes the generator of a purpose: `Job.rng`, perhaps with words put before the purpose."""


class Stateful(Protocol):
    """Anything that a checkpoint can hold: models, optimisers, our own loops."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class Pixels:
    """Pixels in a box that checkpoints can save and restore."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"].to(self.value.device)


def job_seed(root: int, *parts: object) -> int:
    """A 63-bit seed from a root seed and what it is for; the same in every process."""
    text = "\x1f".join(map(str, (root, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Job:
    """One stage on one input: its seed, its device and its scratch folder.

    seed: from the experiment's seed, the stage and the identity, never from a method's name, so
        that cells which are compared share their noise.
    scratch: folder for checkpoints, outside the outputs that Snakemake wipes; None keeps none.
    save_every: seconds between checkpoints, so that a kill, imports and all, costs less than a
        minute; stretched where saving would take over 5 % of the time: as long as the last one
        took, the first as its bytes take at 1 GB/s.
    notes: what a method found, for the output's manifest; the same in equal runs, resumed or not.
    took: what the work took of this machine, for the manifest, too; equal runs differ in it.
    """

    seed: int
    device: str = "cpu"
    scratch: Path | None = None
    save_every: float = 30.0
    notes: dict[str, float] = field(default_factory=dict, compare=False)
    took: dict[str, float] = field(default_factory=dict, compare=False)

    def rng(self, *purpose: object) -> Generator:
        """A CPU generator for one purpose; step numbers in it make resuming exact."""
        import torch

        return torch.Generator().manual_seed(job_seed(self.seed, *purpose))

    def part(self, *purpose: object) -> Job:
        """A job within this one, with draws and checkpoints of its own."""
        own = self.scratch and self.scratch / "-".join(map(str, purpose))
        return replace(self, seed=job_seed(self.seed, *purpose), scratch=own)

    def steps(self, name: str, total: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        """Count steps with a progress bar, save `state` as time passes, go on where it stopped.

        A resumed loop equals an uninterrupted one if every draw comes from `rng(..., step)` and
        all else that a step changes is in `state`. A finished loop is saved too, for the loops
        after it, a little sooner. On SIGTERM, SIGINT and SIGHUP the state is saved first.
        """
        from tqdm import tqdm

        start = self._restore(name, state)
        saved, cost = time.monotonic(), _Cost(state)
        bar = tqdm(total=total, initial=start, desc=name, disable=None, leave=False)
        with bar, _termination() as signals:
            for step in range(start, total):
                yield step
                bar.update()
                every = self.save_every if step + 1 < total else self.save_every / 10
                since = time.monotonic() - saved
                if signals or (since >= every and since >= 20 * cost.seconds):
                    begun = time.monotonic()
                    self._save(name, step + 1, state)
                    saved = time.monotonic()
                    cost.seconds = saved - begun
                if signals:
                    raise SystemExit(128 + signals[0])

    def _save(self, name: str, step: int, state: Mapping[str, Stateful]) -> None:
        if self.scratch is None:
            return
        stored = {"step": step} | {key: holder.state_dict() for key, holder in state.items()}
        store(self.scratch / f"{name}.pt", stored)

    def _restore(self, name: str, state: Mapping[str, Stateful]) -> int:
        if self.scratch is None or not (path := self.scratch / f"{name}.pt").exists():
            return 0
        try:
            stored = load(path, mmap=True)
            if not isinstance(stored, dict) or stored.keys() != {"step", *state}:
                raise DamagedError(path, "it holds something else")
            for key, holder in state.items():  # one that may be damaged has to be the first
                holder.load_state_dict(stored[key])
        except DamagedError as error:
            log.warning("%s '%s' starts anew.", error, name)
            return 0
        return int(stored["step"])


class _Cost:
    """What saving a state takes: guessed from its bytes when first asked for, until measured."""

    def __init__(self, state: Mapping[str, Stateful]) -> None:
        self._state = state

    @cached_property
    def seconds(self) -> float:
        return size_of(self._state) / DISK


def size_of(state: Mapping[str, Stateful]) -> int:
    """The bytes of all tensors in a state."""
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves([holder.state_dict() for holder in state.values()])
    return sum(getattr(leaf, "nbytes", 0) for leaf in leaves)


BY_HAND = Job(seed=0)
"""The job of a method that Python calls without one."""


def store(path: Path, value: Any) -> None:
    """Save tensors, in plain containers, to a file that appears whole or not at all."""
    import torch

    with new_file(path) as part, part.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch hides the reason, such as a full disk, behind it
            raise error.__context__ or error from None


class DamagedError(CloakBenchError):
    """A file is not what `store` saved."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: this checkpoint is damaged ({why}). Run what wrote it again.")


def load(path: Path, *, mmap: bool = False) -> Any:
    """What `store` saved, on the CPU; with `mmap` it is read as it is used, and fills no memory.

    The archive's checksums are compared first: PyTorch loads flipped bits without a word.

    Raises:
        DamagedError: it is not what was saved, as after a power cut or on an old disk.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {member}")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # both libraries fail in many ways
        if is_out_of_memory(error):
            raise
        raise DamagedError(path, reason(error)) from None


def sweep(scratch: Path) -> None:
    """Forget the outputs that jobs kept (see `run.Run`), once the workflow has noted them all.

    Checkpoints of interrupted jobs stay, and all that belongs to a job that is at work.
    """
    for place in scratch.glob("*"):
        if is_held(place / LOCK):
            continue
        for kept in place.glob(f"*{KEPT}"):
            shutil.rmtree(kept, ignore_errors=True)
        if all(path.name == LOCK for path in place.glob("*")):
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _termination() -> Iterator[list[int]]:
    """Collect the signals that stop a job instead of dying inside a step.

    Ignored signals stay ignored (nohup), a second Ctrl-C acts at once. Elsewhere than the main
    thread Python forbids handlers, and the list stays empty.
    """
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    previous: dict[signal.Signals, Any] = {}
    try:
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
