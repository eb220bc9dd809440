"""What jobs take here, by those that have run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.expected import OF_METHODS, Expected
from cloakbench.experiment.status import MEASURED
from cloakbench.experiment.tasks import Task, manifest
from cloakbench.files.verified import load_manifest
from cloakbench.running.benchmark import read_benchmark

if TYPE_CHECKING:
    from cloakbench.experiment.experiment import Experiment


def seconds_of(
    tasks: Sequence[Task], done: Sequence[Task], experiment: Experiment, expected: Expected
) -> list[float]:
    """What jobs of one method took [s]: those that are done, or else those of any experiment with
    the same folder of results, model and settings. None may have been measured.
    """
    return _seconds(done, experiment) or _seconds(
        _alike(tasks[0], experiment, expected), experiment
    )


def _seconds(tasks: Iterable[Task], experiment: Experiment) -> list[float]:
    places = (experiment.layout.benchmark(*task) for task in islice(tasks, MEASURED))
    return [found.seconds for place in places if (found := read_benchmark(place))]


def _alike(task: Task, experiment: Experiment, expected: Expected) -> Iterator[Task]:
    stage, method = task.stage, task.label if task.stage in OF_METHODS else "*"
    with suppress(CloakBenchError):  # of weights, which are among what is missing
        wanted = json.loads(json.dumps(expected.facts(task).settings))
        for cell in experiment.layout.measured(stage, task.cell.model, method):
            said = load_manifest(manifest(Task(stage, cell), experiment)) or {}
            if said.get("settings") == wanted:
                yield Task(stage, cell)
