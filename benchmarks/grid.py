"""How fast a large grid is planned and looked through, on a made-up experiment.

    python benchmarks/grid.py                      # 20,000 cells
    python benchmarks/grid.py --finished 0.5       # with the files of half of the cells there

Writes a dataset of tiny photos, a config of many labelled methods and, as asked, results with
manifests into a temporary folder, then runs `snakemake -n` and `cloakbench status` there and prints
wall time, processor time and peak memory of each. No model is run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.tasks import Task, all_tasks, inputs, result, task_of
from cloakbench.files.layout import SETS
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.verified import read_source, seal

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PARTS = {"data": tuple(SETS), "class_images": ("class",)}  # folders in results that others read


class Cost(NamedTuple):
    """What a command took: seconds by the clock, seconds of processor time, peak memory [MB]."""

    wall: float
    cpu: float
    memory: float


def make_config(folder: Path, identities: int, per_axis: int) -> dict[str, Any]:
    """A grid of `identities * per_axis ** 3` cells; every label has settings of its own."""
    names = range(1, per_axis + 1)
    return {
        "experiment": "grid",
        "model": "mini",
        "models": {"mini": {"path": str(REPOSITORY / "resources" / "mini"), "resolution": 128}},
        "dataset": "tiny",
        "datasets": {"tiny": {"path": str(folder / "identities")}},
        "identities": [f"person_{number:04d}" for number in range(identities)],
        "protections": [{"name": f"noise-{n}", "method": "noise", "budget": n} for n in names],
        "purifications": [{"name": f"jpeg-{n}", "method": "jpeg", "quality": n} for n in names],
        "trainers": [{"name": f"steps-{n}", "method": "dreambooth", "steps": n} for n in names],
    }


def make_photos(config: dict[str, Any]) -> None:
    """Two photos of 8 px in each set of each identity."""
    photo = Image.new("RGB", (8, 8))
    for identity in config["identities"]:
        for name in SETS:
            folder = Path(config["datasets"]["tiny"]["path"]) / identity / name
            folder.mkdir(parents=True)
            for number in range(2):
                photo.save(folder / f"{number}.png")


def make_results(experiment: Experiment, share: float) -> None:
    """Results of the first cells of the grid, as current as if they had been computed."""
    expected, cells = Expected(experiment), experiment.cells()
    done = cells[: round(share * len(cells))]
    for stage, tasks in all_tasks(experiment).items() if done else ():
        wanted = {task_of(stage, cell, experiment) for cell in done}
        for task in tasks:
            if task in wanted or stage in ("class_images", "data", "references"):
                _finish(task, experiment, expected)


def _finish(task: Task, experiment: Experiment, expected: Expected) -> None:
    path, places = result(task, experiment), inputs(task, experiment)
    read = {name: read_source(place) for name, (_, place) in places.items()}
    made = replace(expected.record(task), inputs=read).manifest()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == MANIFEST:
        for name in PARTS.get(task.stage, ("",)):
            (path.parent / name).mkdir(exist_ok=True)
            (path.parent / name / "00.png").write_text(f"{task}")
        path = path.parent
    else:
        path.write_text(f"{task}")
    seal(path, made)


def measure(command: list[str], folder: Path, output: Path) -> Cost:
    """Run a command whose output goes to a file.

    Raises:
        SystemExit: it fails; the end of its output is shown.
    """
    begun = time.monotonic()
    with output.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {' '.join(command)} failed:\n{output.read_text()[-2000:]}")
    memory = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return Cost(time.monotonic() - begun, usage.ru_utime + usage.ru_stime, memory)


def main() -> None:
    """Make the experiment, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=20)
    parser.add_argument("--per-axis", type=int, default=10, help="protections, purifications, ...")
    parser.add_argument("--finished", type=float, default=0.0, help="share of cells with results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloakbench-grid-") as name:
        folder = Path(name)
        config = make_config(folder, arguments.identities, arguments.per_axis)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        make_photos(config)
        make_results(Experiment.parse(config | {"results": folder / "results"}), arguments.finished)
        print(f"{arguments.identities * arguments.per_axis**3:,} cells")
        for title, command in {
            "snakemake -n": [BIN / "snakemake", "-n", "--snakefile", REPOSITORY / "Snakefile"],
            "cloakbench status": [BIN / "cloakbench", "status", "config.yaml"],
        }.items():
            cost = measure(list(map(str, command)), folder, folder / "output.txt")
            print(
                f"{title:>20}: {cost.wall:6.1f} s, {cost.cpu:6.1f} s of processor time, "
                f"{cost.memory:6.0f} MB"
            )


if __name__ == "__main__":
    main()
