"""Jobs: where seeds come from, and loops that survive being killed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Generator


class Stateful(Protocol):
    """Anything that a checkpoint can hold: models, optimisers, our own loops."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


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
    save_every: seconds between checkpoints, stretched where saving would take over 5 % of the time.
    """

    seed: int
    device: str = "cpu"
    scratch: Path | None = None
    save_every: float = 60.0

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
        all else that a step changes is in `state`. On SIGTERM the state is saved first.
        """
        from tqdm import tqdm

        start = self._restore(name, state)
        saved, cost = time.monotonic(), 0.0
        bar = tqdm(total=total, initial=start, desc=name, disable=None, leave=False)
        with bar, _termination() as termination:
            for step in range(start, total):
                yield step
                bar.update()
                due = time.monotonic() - saved >= max(self.save_every, 20 * cost)
                if termination or (due and step + 1 < total):
                    begun = time.monotonic()
                    self._save(name, step + 1, state)
                    saved = time.monotonic()
                    cost = saved - begun
                if termination:
                    raise SystemExit(128 + signal.SIGTERM)

    def _save(self, name: str, step: int, state: Mapping[str, Stateful]) -> None:
        import torch

        if self.scratch is None:
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        part = self.scratch / f"{name}.part"
        torch.save({"step": step} | {k: v.state_dict() for k, v in state.items()}, part)
        os.replace(part, self.scratch / f"{name}.pt")

    def _restore(self, name: str, state: Mapping[str, Stateful]) -> int:
        import torch

        if self.scratch is None or not (path := self.scratch / f"{name}.pt").exists():
            return 0
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for key, holder in state.items():
            holder.load_state_dict(stored[key])
        return int(stored["step"])


@contextmanager
def _termination() -> Iterator[list[int]]:
    """Collect SIGTERM into a list instead of dying inside a step; elsewhere than the main thread
    Python forbids handlers, and the list stays empty.
    """
    received: list[int] = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    except ValueError:
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
