"""One run of a stage: its output, its seed, and what survives a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloakbench.files.outputs import check_output, file_state, hold, new_folder, restore
from cloakbench.files.verified import is_whole
from cloakbench.running.jobs import KEPT, LOCK, Job, job_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """How a stage runs, whatever its method.

    out: the folder to write. identity: its name, for seeds. scratch: folder for checkpoints; None
    keeps none.

    In `scratch`, every output has a folder with a lock, the checkpoints of the work in progress
    and, under a second name, its finished files: Snakemake does over what it did not see ending,
    which is every job that ends after Snakemake was killed.
    """

    out: Path
    identity: str
    seed: int = 0
    device: str = "cpu"
    scratch: Path | None = None

    def job(self, stage: str, work: Any, *inputs: Path | None) -> Job:
        """The job of this run, with a scratch folder that only the same work can resume.

        Waits for another process that writes the same output. Checkpoints of the same output
        under other settings, code or inputs are deleted, and so is what the jobs that made the
        inputs kept.

        work: all that the output depends on besides seed, device and inputs.

        Raises:
            CloakBenchError: the output would replace an input, or files that no stage wrote.
        """
        check_output(self.out, *inputs)
        own = None
        if self.scratch is not None:
            place = self._place(self.out)
            self._wait(place / LOCK)
            for folder in filter(None, inputs):  # first: a file that loses a name has changed
                for kept in self._place(folder).glob(f"*{KEPT}"):
                    shutil.rmtree(kept, ignore_errors=True)
            own = place / _digest([work, self.seed, self.device, *map(_contents, inputs)])
            for other in place.glob("*"):
                if other.name not in {LOCK, own.name, own.name + KEPT}:
                    shutil.rmtree(other, ignore_errors=True)
        return Job(self.job_seed(stage), self.device, own)

    def job_seed(self, stage: str) -> int:
        """The seed of this run's job of a stage."""
        return job_seed(self.seed, stage, self.identity)

    def manifest(self, stage: str, settings: Any) -> dict[str, Any]:
        """What `job.json` says of this run."""
        return {"stage": stage, "settings": settings, "identity": self.identity, "seed": self.seed}

    def restored(self, job: Job) -> bool:
        """Put the output back if this very job has ended before, unseen."""
        kept = _kept(job)
        if kept is None or not kept.is_dir():
            return False
        if not is_whole(kept):
            log.warning(
                "%s: what was kept of %s is damaged; the work is done again.", kept, self.out
            )
            return False
        restore(kept, self.out)
        return True

    @contextmanager
    def output(self, job: Job, manifest: dict[str, Any]) -> Iterator[Path]:
        """The folder to write the output into; the checkpoints are forgotten when it is whole."""
        notes = {"notes": job.notes} if job.notes else {}
        with new_folder(self.out, manifest | notes, _kept(job)) as folder:
            yield folder
        close_job(job)

    def _place(self, folder: Path) -> Path:
        assert self.scratch is not None
        return self.scratch / _digest(str(folder.absolute()))

    def _wait(self, lock: Path) -> None:
        said = False
        while (holder := hold(lock)) is not None:
            if not said:
                log.warning("%s: %s writes this output; waiting until it ends.", self.out, holder)
            said = True
            time.sleep(1)


def close_job(job: Job) -> None:
    """Forget a finished job's checkpoints."""
    if job.scratch is not None:
        shutil.rmtree(job.scratch, ignore_errors=True)


def seen(path: Path) -> tuple[str, str]:
    """Name and state of a file: cheap, and different after any change."""
    return path.name, file_state(path)


def _kept(job: Job) -> Path | None:
    return job.scratch and job.scratch.with_name(job.scratch.name + KEPT)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contents(folder: Path | None) -> list[tuple[str, str]]:
    """The state of all of a folder's files, by their paths in it."""
    if folder is None:
        return []
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path.relative_to(folder)), file_state(path)) for path in files]
