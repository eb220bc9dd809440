"""One run of a stage: its output, its seed, and what survives a kill."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloakbench.files.digest import digest
from cloakbench.files.outputs import MANIFEST, check_output, hold, new_folder, restore
from cloakbench.files.verified import beside, is_whole, load_manifest
from cloakbench.running.gpu import peak_memory
from cloakbench.running.jobs import KEPT, LOCK, Job, job_seed
from cloakbench.running.record import Facts, Record

log = logging.getLogger(__name__)

DIGESTS = "sha256.json"
"""The cache of digests, in the scratch folder."""


@dataclass(frozen=True)
class Run:
    """How a stage runs, whatever its method.

    out: the folder to write. identity: its name, for seeds. scratch: folder for checkpoints; None
    keeps none. resume: whether an output that is already what this run would make is left as it is.

    In `scratch`, every output has a folder with a lock, the checkpoints of the work in progress
    and, under a second name, its finished files: Snakemake does over what it did not see ending,
    which is every job that ends after Snakemake was killed.
    """

    out: Path
    identity: str
    seed: int = 0
    device: str = "cpu"
    scratch: Path | None = None
    resume: bool = False

    @property
    def digests(self) -> Path | None:
        """A cache of the SHA-256 of weights, which are large and read by many jobs."""
        return self.scratch and self.scratch / DIGESTS

    def record(self, facts: Facts, *originals: Path, **inputs: Path | None) -> Record:
        """What this run's output is made of.

        originals: folders that are read beside the inputs, and that facts tell of.

        Raises:
            CloakBenchError: the output would replace what is read, or files that no stage wrote; or
                an input is damaged.
        """
        check_output(self.out, *originals, *inputs.values())
        if self.scratch is not None:
            for folder in filter(None, inputs.values()):
                for kept in self._place(folder).glob(f"*{KEPT}"):
                    shutil.rmtree(kept, ignore_errors=True)
        return Record.of(facts, {"identity": self.identity, "seed": self.seed}, inputs)

    def job(self, record: Record) -> Job:
        """The job of this run, with a scratch folder that only the same work can resume.

        Waits for another process that writes the same output. Checkpoints of the same output
        under other settings, code or inputs are deleted.
        """
        own = None
        if self.scratch is not None:
            place = self._place(self.out)
            self._wait(place / LOCK)
            own = place / digest([record.key, record.inputs, self.device])
            for other in place.glob("*"):
                if other.name not in {LOCK, own.name, own.name + KEPT}:
                    shutil.rmtree(other, ignore_errors=True)
        return Job(self.job_seed(record.facts.stage), self.device, own)

    def job_seed(self, stage: str) -> int:
        """The seed of this run's job of a stage."""
        return job_seed(self.seed, stage, self.identity)

    def restored(self, job: Job, record: Record) -> bool:
        """Put the output back if this very job has ended before, unseen; see also `resume`."""
        if self.resume and is_made(self.out, record):
            return True
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
    def output(self, job: Job, record: Record) -> Iterator[Path]:
        """The folder to write the output into; the checkpoints are forgotten when it is whole."""
        manifest = record.manifest(self.device)
        with new_folder(self.out, manifest, _kept(job)) as folder:
            yield folder  # some work is done while it is written
            job.took.update(peak_memory(self.device))
            manifest |= {name: each for name in ("notes", "took") if (each := getattr(job, name))}
        close_job(job)

    def _place(self, folder: Path) -> Path:
        assert self.scratch is not None
        return self.scratch / digest(str(folder.absolute()))

    def _wait(self, lock: Path) -> None:
        said = False
        while (holder := hold(lock)) is not None:
            if not said:
                log.warning("%s: %s writes this output; waiting until it ends.", self.out, holder)
            said = True
            time.sleep(1)


def is_made(out: Path, record: Record) -> bool:
    """Whether a folder is whole, and made of just what a record says."""
    said = load_manifest(out / MANIFEST)
    return said is not None and said.get("key") == record.key and is_whole(out)


def is_made_file(path: Path, record: Record) -> bool:
    """Whether a file is made of just what a record says, of inputs with the same bytes."""
    said, wanted = load_manifest(beside(path)) or {}, record.manifest()
    return all(said.get(name) == wanted[name] for name in ("key", "inputs"))


def close_job(job: Job) -> None:
    """Forget a finished job's checkpoints."""
    if job.scratch is not None:
        shutil.rmtree(job.scratch, ignore_errors=True)


def _kept(job: Job) -> Path | None:
    return job.scratch and job.scratch.with_name(job.scratch.name + KEPT)
