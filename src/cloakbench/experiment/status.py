"""How far an experiment is, told by its files alone: no model, no plan of Snakemake's, seconds."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from cloakbench.files.layout import STAGES, Cell, Layout
from cloakbench.files.outputs import MANIFEST

if TYPE_CHECKING:
    from rich.console import Console

    from cloakbench.experiment.experiment import Experiment

MEASURED = 20  # finished jobs of a label that are looked at: enough for a mean
SHOWN = 5  # failures that are printed
_TAIL = 4096  # bytes at the end of a log that are searched for an error


class Task(NamedTuple):
    """A job of the workflow that runs a stage; `cell` has only the labels that name the job."""

    stage: str
    cell: Cell

    @property
    def label(self) -> str:
        """The last of its labels: the method that decides how long the job takes."""
        return [*vars(self.cell).values()][STAGES[self.stage] - 1]


class Measurement(NamedTuple):
    """What Snakemake measured of a job, in its last attempt: time [s] and peak memory [MB]."""

    seconds: float
    memory: float


class Failure(NamedTuple):
    """A job without a result, and the error that its log ends in."""

    stage: str
    log: Path
    error: str


@dataclass(frozen=True)
class Progress:
    """One stage's jobs.

    failed: jobs without a result whose last attempt ended in an error, by its log.
    seconds: what the unfinished jobs will take one after another, at the mean of their label's
        finished ones, or else of their stage's; None where none has finished.
    """

    stage: str
    jobs: int
    done: int
    failed: int
    seconds: float | None

    @property
    def missing(self) -> int:
        """Jobs that wait, run, or were cut off."""
        return self.jobs - self.done - self.failed


@dataclass(frozen=True)
class Status:
    """How far an experiment is."""

    experiment: str
    stages: list[Progress]
    failures: list[Failure]

    @property
    def known(self) -> bool:
        """Whether the time of every unfinished stage is known."""
        return all(stage.seconds is not None for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Time of the unfinished jobs one after another, as far as it is known."""
        return sum(stage.seconds or 0 for stage in self.stages)

    def as_data(self) -> dict[str, Any]:
        """Plain data; `seconds_left` is for one job after another, and null if not known."""
        return {
            "experiment": self.experiment,
            "seconds_left": self.seconds if self.known else None,
            "stages": [
                {
                    "stage": stage.stage,
                    "jobs": stage.jobs,
                    "done": stage.done,
                    "missing": stage.missing,
                    "failed": stage.failed,
                    "seconds_left": stage.seconds,
                }
                for stage in self.stages
            ],
            "failures": [
                {**failure._asdict(), "log": str(failure.log)} for failure in self.failures
            ],
        }


def read_status(experiment: Experiment) -> Status:
    """Look for the result of every job, and into the logs of jobs without one.

    A result counts whatever made it; `snakemake -n` knows which are out of date.
    """
    layout = experiment.layout
    stages, failures = [], []
    for stage, tasks in all_tasks(experiment).items():
        done: list[Task] = []
        left: list[Task] = []
        for task in tasks:
            (done if os.path.exists(_result(task, experiment)) else left).append(task)
        failed = _failures(stage, [layout.log(stage, task.cell) for task in left])
        seconds = _seconds(left, done, layout)
        stages.append(Progress(stage, len(tasks), len(done), len(failed), seconds))
        failures += failed
    for command, result in {
        "tables": layout.tables(experiment.name) / "summary.csv",
        "report": layout.report(experiment.name),
    }.items():
        logs = [] if result.exists() else [layout.experiment_log(command, experiment.name)]
        failed = _failures(command, logs)
        stages.append(Progress(command, 1, 1 - len(logs), len(failed), 0.0))
        failures += failed
    return Status(experiment.name, stages, failures)


def all_tasks(experiment: Experiment) -> dict[str, list[Task]]:
    """The jobs of every stage, as the workflow's rules have them."""
    cells = experiment.cells()
    tasks = {
        stage: list(dict.fromkeys(Task(stage, _part(cell, labels)) for cell in cells))
        for stage, labels in STAGES.items()
        if stage != "sample" or experiment.config.keep_weights  # else `personalise` samples
        if stage != "class_images" or experiment.uses_class_images
        if stage != "references" or experiment.uses_references
    }
    if experiment.uses_references:  # which are of all people
        everyone = experiment.config.dataset_spec.identities()
        first = tasks["data"][0].cell
        tasks["data"] = [Task("data", replace(first, identity=identity)) for identity in everyone]
    return tasks


def read_benchmark(path: Path) -> Measurement | None:
    """A benchmark file of Snakemake's; None where there is none, or one without figures."""
    try:
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return Measurement(float(row["s"]), float(row["max_rss"]))
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return None


def print_status(status: Status, at_once: int = 1, console: Console | None = None) -> None:
    """Print a table of the stages, the first failures and the time left.

    at_once: jobs that run at the same time.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    table = Table(title=Text(status.experiment))
    table.add_column("stage")
    for heading in ("jobs", "done", "missing", "failed", "time left"):
        table.add_column(heading, justify="right")
    for stage in status.stages:
        counts = (stage.jobs, stage.done, stage.missing, stage.failed)
        left = duration(None if stage.seconds is None else stage.seconds / at_once)
        table.add_row(stage.stage, *(f"{count:,}" if count else "" for count in counts), left)
    console.print(table)
    for failure in status.failures[:SHOWN]:
        console.print(Text(f"{failure.log}: {failure.error}"), soft_wrap=True)
    if (more := len(status.failures) - SHOWN) > 0:
        console.print(f"... and {more:,} more failures")
    if status.seconds or not status.known:
        left = duration(status.seconds / at_once) or "some time"
        jobs = "one job" if at_once == 1 else f"{at_once} jobs"
        console.print(f"{left}{'' if status.known else ' or more'} left with {jobs} at a time")


def duration(seconds: float | None) -> str:
    """A time in words; "?" for one that is not known, "" for none."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return "< 1 min" if seconds else ""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _part(cell: Cell, labels: int) -> Cell:
    """A cell without all but its first labels."""
    values = [*vars(cell).values()]
    return Cell(*values[:labels], *[""] * (len(values) - labels))


def _result(task: Task, experiment: Experiment) -> Path:
    """The file that shows that a job is done."""
    cell, layout = task.cell, experiment.layout
    match task.stage:
        case "class_images":
            folder = layout.class_images(cell.model, experiment.config.prompts.class_noun)
        case "data":
            folder = layout.data(cell)
        case "protect":
            folder = layout.protected(cell)
        case "purify":
            folder = layout.purified(cell)
        case "personalise" if experiment.config.keep_weights:
            folder = layout.personalised(cell)
        case "personalise" | "sample":
            folder = layout.generated(cell)
        case "references":
            return layout.references(cell)
        case "distances":
            return layout.distances(cell)
        case "score":
            return layout.scores(cell)
    return folder / MANIFEST


def _failures(stage: str, logs: Sequence[Path]) -> list[Failure]:
    return [Failure(stage, log, error) for log in logs if (error := _error(log))]


def _error(log: Path) -> str:
    """A log's last `error:` line, or the last line of its traceback; "" if it tells of no error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    if errors := [line for line in lines if line.startswith("error: ")]:
        return errors[-1]
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else ""


def _seconds(left: Sequence[Task], done: Sequence[Task], layout: Layout) -> float | None:
    """Seconds that the jobs left will take one after another; None if no job has been measured."""
    times: dict[str, list[Path]] = defaultdict(list)
    for task in done if left else ():
        if len(times[task.label]) < MEASURED:
            times[task.label].append(layout.benchmark(task.stage, task.cell))
    means = {label: _mean_seconds(paths) for label, paths in times.items()}
    known = {label: mean for label, mean in means.items() if mean is not None}
    if left and not known:
        return None
    return sum(known.get(task.label, fmean(known.values())) for task in left)


def _mean_seconds(benchmarks: Sequence[Path]) -> float | None:
    measured = [m.seconds for path in benchmarks if (m := read_benchmark(path)) is not None]
    return fmean(measured) if measured else None
