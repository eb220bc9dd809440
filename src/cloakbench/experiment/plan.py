"""What an experiment will take, told before it runs: jobs, time, memory, disk, what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.experiment.expected import OF_METHODS, Expected
from cloakbench.experiment.measured import seconds_of
from cloakbench.experiment.needs import Need, Needs
from cloakbench.experiment.status import duration
from cloakbench.experiment.tasks import Task, all_tasks, result
from cloakbench.running.gpu import LARGE
from cloakbench.running.jobs import DISK

if TYPE_CHECKING:
    from rich.console import Console

    from cloakbench.experiment.experiment import Experiment

CUDA = 1e9  # bytes of its context and workspaces
PROCESS = 3e9  # bytes of a process with its libraries
START = 15.0  # seconds until a job's imports and model are there
PIXEL = 2.2  # bytes of a pixel of a photograph's PNG
BUS = 5e9  # bytes/s between a card and ordinary, pageable memory of its host
STAND_INS = 12  # photos of a person who is planned for where the dataset is missing
LAUNCHED, REPLAYED = 45e-6, 15e-6
"""Seconds of a small kernel, as seen on H100s: launched by a host, or by `models.replay`."""


class Card(NamedTuple):
    """What a device can do: FLOP/s at its peak, by precision, and its memory [bytes].

    share: of its peak that a job is taken to get.
    """

    bf16: float
    fp32: float
    memory: float
    share: float = 0.2

    @property
    def large(self) -> bool:
        """Whether it is a GPU whose memory jobs need not spare."""
        return LARGE < self.memory < float("inf")


CPU = "cpu"
CARDS = {
    CPU: Card(1e11, 1e11, float("inf"), share=0.5),
    "h100": Card(989e12, 67e12, 80 * 2**30),
    "h200": Card(989e12, 67e12, 141 * 2**30),
    "a100": Card(312e12, 19.5e12, 80 * 2**30),
    "a100-40gb": Card(312e12, 19.5e12, 40 * 2**30),
    "l40s": Card(362e12, 91.6e12, 48 * 2**30),
    "rtx4090": Card(165e12, 82.6e12, 24 * 2**30),
    "rtx3090": Card(71e12, 35.6e12, 24 * 2**30),
}
"""By their makers' tables, without sparsity; "cpu" is one core of 3 GHz with AVX2."""


@dataclass(frozen=True)
class Line:
    """The jobs of a stage, with one method if it has methods.

    seconds: of a job; None if nobody knows. measured: by finished jobs, and not counted. need: what
    was counted, in the try that fits the card; frugal: it is the second. disk: bytes of a result.
    """

    stage: str
    method: str
    jobs: int
    left: int
    seconds: float | None
    measured: bool
    disk: float
    need: Need | None
    frugal: bool = False


@dataclass(frozen=True)
class Plan:
    """What an experiment takes on a card of whose peak its jobs get a share, and what it misses."""

    experiment: str
    card: str
    share: float
    cells: int
    samples: int
    lines: list[Line]
    missing: list[str]
    uncounted: list[str]

    @property
    def known(self) -> bool:
        """Whether the time of all that is left is known."""
        return all(line.seconds is not None for line in self.lines if line.left)

    @property
    def seconds(self) -> float:
        """Time of what is left, one job after another, as far as it is known."""
        return sum(line.left * (line.seconds or 0.0) for line in self.lines)

    @property
    def disk(self) -> float:
        """Bytes of the results that are left."""
        return sum(line.left * line.disk for line in self.lines)

    @property
    def memory(self) -> tuple[float, float]:
        """Bytes that the largest job takes of the card, and of the host."""
        needs = [line.need for line in self.lines if line.need and line.left]
        device = max((need.device for need in needs), default=0.0)
        host = PROCESS + max((need.host for need in needs), default=0.0)
        return (0.0, host + device) if self.card == CPU else (device + CUDA, host)

    @property
    def scratch(self) -> float:
        """Bytes that the largest job may hold on disk beside its result."""
        return max((line.need.scratch for line in self.lines if line.need and line.left), default=0)

    def as_data(self) -> dict[str, Any]:
        """Plain data; times are those of one job after another."""
        card, host = self.memory
        return {
            "experiment": self.experiment,
            "card": self.card,
            "share": self.share,
            "cells": self.cells,
            "samples": self.samples,
            "seconds_left": self.seconds,
            "all_times_known": self.known,
            "card_bytes": card,
            "host_bytes": host,
            "disk_bytes_left": self.disk,
            "scratch_bytes": self.scratch,
            "jobs": [asdict(line) for line in self.lines],
            "missing": self.missing,
            "uncounted": self.uncounted,
        }


def make_plan(experiment: Experiment, card: str, share: float | None = None) -> Plan:
    """Look at what is there, and count what is left; for one person where the dataset is missing.

    card: of `CARDS`. share: of its peak that a job gets; by default what `CARDS` says.

    Raises:
        CloakBenchError: the card is unknown, or there are no photos to count.
    """
    from tqdm import tqdm

    if card not in CARDS:
        raise CloakBenchError(f"--card: unknown '{card}': {nearest(card, CARDS)}")
    share = share or CARDS[card].share
    missing = _missing(experiment)
    with _peopled(experiment) as peopled:
        if peopled is not experiment:
            dataset = experiment.config.dataset_spec.path
            missing.append(f"dataset {dataset}: planned for one person of {STAND_INS} photos.")
        planner = _Planner(peopled, CARDS[card], share)
        lines = [
            planner.line(stage, method, tasks)
            for (stage, method), tasks in tqdm(
                planner.groups().items(), "counting", leave=False, disable=None
            )
        ]
        cells = len(peopled.cells())
    config = experiment.config
    samples = config.sampling.images * len(config.prompts.sample)
    uncounted = [each for each in dict.fromkeys(planner.uncounted) if each not in missing]
    return Plan(experiment.name, card, share, cells, samples, lines, missing, uncounted)


class _Planner:
    def __init__(self, experiment: Experiment, card: Card, share: float) -> None:
        self.experiment, self.card = experiment, card
        self.share = share
        self.needs = Needs(experiment, large=card.large)
        self.expected = Expected(experiment)
        self.uncounted: list[str] = []

    def groups(self) -> dict[tuple[str, str], list[Task]]:
        found: dict[tuple[str, str], list[Task]] = defaultdict(list)
        for stage, tasks in all_tasks(self.experiment).items():
            for task in tasks:
                found[stage, task.label if stage in OF_METHODS else ""].append(task)
        return found

    def line(self, stage: str, method: str, tasks: list[Task]) -> Line:
        done = [task for task in tasks if self._is_done(task)]
        times = seconds_of(tasks, done, self.experiment, self.expected)
        need, frugal = self._need(tasks[0]) if len(done) < len(tasks) else (None, False)
        kernel = LAUNCHED if frugal or stage == "purify" else REPLAYED
        return Line(
            stage,
            method,
            len(tasks),
            len(tasks) - len(done),
            fmean(times) if times else self._seconds(need, kernel) if need else None,
            bool(times),
            self._disk(stage, method, need),
            need,
            frugal,
        )

    def _is_done(self, task: Task) -> bool:
        try:
            return result(task, self.experiment).exists() and not self.expected.outdated(task)
        except CloakBenchError:  # among what is missing
            return False

    def _need(self, task: Task) -> tuple[Need | None, bool]:
        """A job's need in the try that fits the card, and whether that is the second."""
        try:
            first = self.needs.of(task)
            if first is None or first.device + CUDA <= self.card.memory:
                return first, False
            return self.needs.of(task, frugal=True), True
        except CloakBenchError as error:
            self.uncounted += error.problems
            return None, False

    def _seconds(self, need: Need, kernel: float) -> float:
        """What a job takes, about: the rest waits for its kernels, of so many seconds at least."""
        lower, card, moved = need.flops - need.single, self.card, 0.0
        work = (lower / card.bf16 + need.single / card.fp32) / self.share
        if card != CARDS[CPU]:
            work, moved = max(work, need.operators * kernel), need.moved / BUS
        return START + work + moved + need.written / DISK

    def _disk(self, stage: str, method: str, need: Need | None) -> float:
        """Bytes of a job's result, about: images, or weights."""
        config, photos = self.experiment.config, self.needs.photos
        samples = config.sampling.images * len(config.prompts.sample)
        if stage == "personalise" and config.keep_weights:
            return need.weights if need else 0
        snapshots = len(self.experiment.trainers[method].earlier()) if stage == "personalise" else 0
        images = {
            "class_images": config.class_images.images,
            "data": sum(photos.values()),
            "protect": photos["set_B"],
            "purify": photos["set_B"],
            "personalise": samples * (1 + snapshots),
            "sample": samples,
        }
        return images.get(stage, 0) * PIXEL * config.model_spec.resolution**2


@contextmanager
def _peopled(experiment: Experiment) -> Iterator[Experiment]:
    """The experiment, or where its dataset is missing, the same on one person of some photos."""
    from cloakbench.experiment.experiment import Experiment

    config, dataset = experiment.config, experiment.config.dataset_spec
    if dataset.folder.is_dir():
        yield experiment
        return
    with TemporaryDirectory() as folder:
        (person := Path(folder) / "person").mkdir()
        for number in range(STAND_INS):
            (person / f"{number:02d}.png").touch()
        there = {
            **config.datasets,
            config.dataset: dataset.model_copy(update={"path": Path(folder)}),
        }
        yield Experiment(config.model_copy(update={"datasets": there, "identities": None}))


def _missing(experiment: Experiment) -> list[str]:
    """All that a run would miss, a line each."""
    try:
        experiment.check()
    except CloakBenchError as error:
        return error.problems
    return []


def print_plan(plan: Plan, at_once: int = 1, console: Console | None = None) -> None:
    """Print a table of the jobs, what they take together, and what is missing.

    at_once: jobs that run at the same time.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    title = f"{plan.experiment}: {plan.cells:,} cells, {plan.samples:,} samples each"
    table = Table(title=Text(title))
    for heading in ("stage", "method"):
        table.add_column(heading)
    for heading in ("jobs", "left", "each", "memory" if plan.card == CPU else plan.card):
        table.add_column(heading, justify="right")
    for line in plan.lines:
        known = line.measured or line.seconds is None
        each = duration(line.seconds) + ("" if known else " *") if line.left else ""
        left = f"{line.left:,}" if line.left else ""
        row = line.stage, Text(line.method), f"{line.jobs:,}", left, each, _memory(line, plan.card)
        table.add_row(*row)
    console.print(table)
    card, host = plan.memory
    time = (duration(plan.seconds / at_once) or "no time") + ("" if plan.known else " or more")
    each = "" if plan.card == CPU else ", each on a card of its own"
    jobs = "one job at a time" if at_once == 1 else f"{at_once} jobs at a time{each}"
    console.print(f"left: {time} with {jobs}, {_gigabytes(plan.disk)} on disk")
    where = f"{_gigabytes(card)} of the card and " if card else ""
    scratch = f", up to {_gigabytes(plan.scratch)} on disk until it ends" if plan.scratch else ""
    console.print(f"the largest job takes {where}{_gigabytes(host)} of the host's memory{scratch}")
    console.print(
        f"* counted, at {plan.share:.0%} of the peak of {plan.card}, not measured; "
        "? neither: it runs no model that can be counted"
    )
    for kind, problems in {"missing": plan.missing, "not counted": plan.uncounted}.items():
        for problem in problems:
            console.print(Text(f"{kind}: {problem}"), soft_wrap=True)


def _memory(line: Line, card: str) -> str:
    if line.need is None:
        return ""
    if card == CPU:
        return _gigabytes(PROCESS + line.need.device + line.need.host)
    return _gigabytes(line.need.device + CUDA) + (", 2nd try" if line.frugal else "")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
