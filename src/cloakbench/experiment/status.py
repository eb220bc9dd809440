"""How far an experiment is, told by its files alone: no model, no plan of Snakemake's, seconds."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from cloakbench.experiment.expected import Expected
from cloakbench.experiment.tasks import Task, all_tasks, result
from cloakbench.files.layout import Layout
from cloakbench.running.benchmark import read_benchmark

if TYPE_CHECKING:
    from rich.console import Console

    from cloakbench.experiment.experiment import Experiment

MEASURED = 20  # finished jobs of a label that are looked at: enough for a mean
SHOWN = 5  # failures, and results that are out of date, that are printed
_TAIL = 4096  # bytes at the end of a log that are searched for an error


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
    """How far an experiment is.

    outdated: results that are there but count as missing, and why.
    """

    experiment: str
    stages: list[Progress]
    failures: list[Failure]
    outdated: list[str]

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
            "outdated": self.outdated,
        }


def read_status(experiment: Experiment) -> Status:
    """Look at the result of every job, and into the logs of jobs without one.

    A result that is not of this config, or of this code, is one that is missing.
    """
    layout, expected = experiment.layout, Expected(experiment)
    stages, failures, outdated = [], [], []
    for stage, tasks in all_tasks(experiment).items():
        there = {task for task in tasks if os.path.exists(result(task, experiment))}
        why = {task: expected.outdated(task) for task in tasks if task in there}
        outdated += [f"{result(t, experiment)}: {words}" for t, words in why.items() if words]
        done = [task for task in tasks if why.get(task) == ""]
        left = [task for task in tasks if why.get(task) != ""]
        failed = _failures(stage, [layout.log(stage, t.cell) for t in left if t not in there])
        seconds = _seconds(left, done, layout)
        stages.append(Progress(stage, len(tasks), len(done), len(failed), seconds))
        failures += failed
    for command, made in {"tables": expected.has_tables(), "report": expected.has_report()}.items():
        logs = [] if made else [layout.experiment_log(command, experiment.name)]
        failed = _failures(command, logs)
        stages.append(Progress(command, 1, int(made), len(failed), 0.0))
        failures += failed
    return Status(experiment.name, stages, failures, outdated)


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
    for line in status.outdated[:SHOWN]:
        console.print(Text(f"out of date: {line}"), soft_wrap=True)
    if (more := len(status.outdated) - SHOWN) > 0:
        console.print(f"... and {more:,} more results that are out of date")
    if status.seconds:
        left = duration(status.seconds / at_once)
        jobs = "one job" if at_once == 1 else f"{at_once} jobs"
        console.print(f"{left}{'' if status.known else ' or more'} left with {jobs} at a time")
    if not status.known:
        console.print("?: nothing like it has run; `cloakbench plan` counts how long it takes")


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
