"""What a job took: its time and memory, measured by the job itself.

Snakemake measures as well, but only looks at its own child processes, and at these once in half a
minute, so that it misses jobs that `running.forks` starts, and peaks.
"""

from __future__ import annotations

import csv
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cloakbench.errors import explain_os_error
from cloakbench.files.outputs import new_file

CHANGES_NO_RESULT = True

log = logging.getLogger(__name__)

_KILOBYTES = 1024 if sys.platform == "darwin" else 1  # macOS counts memory in bytes


class Measurement(NamedTuple):
    """A job's last attempt that succeeded: time [s], processor's time [s], peak memory [MB].

    The memory of a fork (see `running.forks`) has in it what it shares with others.
    """

    seconds: float
    cpu_seconds: float
    memory: float


@contextmanager
def benchmarked(path: Path) -> Iterator[None]:
    """Write what this process takes until the block ends, unless that is by an error."""
    begun = time.monotonic()
    yield
    try:
        write_benchmark(path, _taken(begun))
    except OSError as error:  # what was to be done is done
        log.warning("%s", explain_os_error(error) or error)


def _taken(begun: float) -> Measurement:
    """By this process, and by those that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    peak = max(usage.ru_maxrss for usage in usages) / _KILOBYTES / 1024
    return Measurement(time.monotonic() - begun, cpu, peak)


def write_benchmark(path: Path, took: Measurement) -> None:
    """A table of one line with the names of columns that Snakemake's own benchmarks have."""
    with new_file(path) as part:
        figures = (f"{figure:.2f}" for figure in took)
        part.write_text("s\tcpu_time\tmax_rss\n" + "\t".join(figures) + "\n")


def read_benchmark(path: Path) -> Measurement | None:
    """What a job took; None where there is no such file, or one without figures."""
    try:
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return Measurement(*(float(row[name]) for name in ("s", "cpu_time", "max_rss")))
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return None
