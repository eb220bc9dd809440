"""Damage every file of a finished study in turn, ask for its tables again, and see what comes.

    python tools/damage.py --damages 300

A small study runs once, on the bundled model. Then one of its files, in `results` or among a killed
job's checkpoints, gets a flipped bit, is cut, emptied, deleted, swapped with its neighbour, or gets
a twin; what was made from it is deleted, so that it is read; and all that is missing or outdated is
made anew by the commands that Snakemake plans. Three things may happen:

    healed    all tables have the same bytes as before
    named     one line names the file; after its advice was followed, the tables have the same bytes
    silent    anything else: other numbers without a word, a traceback, advice that does not help
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from tqdm import tqdm
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import load
from cloakbench.experiment.expected import Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.tasks import all_tasks, inputs, result
from cloakbench.files.outputs import MANIFEST
from cloakbench.running.jobs import LOCK, Job

REPOSITORY = Path(__file__).resolve().parents[1]
PEOPLE = 2
STUDY = {
    "experiment": "small",
    "datasets": {"bundled": {"path": "identities"}},
    "preset": "tiny",
    "protections": ["noise", "aspl"],
    "purifications": ["jpeg"],
    "trainers": ["lora"],
    "class_images": {"images": 2, "steps": 2, "sampler": "ddim"},
    "sampling": {"images": 2, "steps": 2, "sampler": "ddim"},
    "metrics": ["fdfr", "ism", "relative_ism", "identified", "brisque"],
    "keep_weights": True,
}
ORDER = ("data", "class_images", "references", "protect", "purify", "distances", "personalise",
         "sample", "score")  # fmt: skip
TWIN = "twin_"


class Stop(BaseException):
    """A kill."""


def flip(path: Path, rng: random.Random) -> None:
    """Turn one bit round."""
    content = bytearray(path.read_bytes() or b"0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Lose the end."""
    content = path.read_bytes() or b"0"
    path.write_bytes(content[: rng.randrange(len(content))])


def swap(path: Path, rng: random.Random) -> None:
    """Change places with another file of the same kind nearby."""
    others = [p for p in path.parent.parent.rglob(f"*{path.suffix}") if p.is_file() and p != path]
    if others:
        other = rng.choice(sorted(others))
        mine, its = path.read_bytes(), other.read_bytes()
        path.write_bytes(its)
        other.write_bytes(mine)


WAYS: dict[str, Callable[[Path, random.Random], object]] = {
    "flipped": flip,
    "cut": cut,
    "emptied": lambda path, _: path.write_bytes(b""),
    "deleted": lambda path, _: path.unlink(),
    "swapped": swap,
    "doubled": lambda path, _: shutil.copy(path, path.with_name(TWIN + path.name)),
}


class Study:
    """A finished study in the current folder, and how to make each of its results again."""

    def __init__(self) -> None:
        self.commands = _planned()
        self.tables = _tables()

    def ask(self) -> str:
        """Make what is missing or outdated, as Snakemake would; the error if there is one."""
        try:
            experiment = Experiment.parse(load([Path("config.yaml")]))
            experiment.check()
            expected = Expected(experiment)
            for task in (task for stage in ORDER for task in all_tasks(experiment)[stage]):
                path = result(task, experiment)
                if not path.exists() or expected.outdated(task):
                    path.unlink(missing_ok=True)
                    self.run(path)
                    expected = Expected(experiment)
            if not expected.has_tables():
                self.run(experiment.layout.tables(experiment.name) / "summary.csv")
            if not expected.has_report():
                self.run(experiment.layout.report(experiment.name))
        except CloakBenchError as error:
            return str(error)
        return ""

    def run(self, output: Path) -> None:
        """The command that makes a file, in this process."""
        done = CliRunner().invoke(app, self.commands[str(output)])
        if done.exception is not None:
            raise done.exception

    def changed(self) -> list[str]:
        """Tables that are not as they were when nothing was damaged."""
        now = _tables()
        names = sorted({*now, *self.tables})
        return [name for name in names if now.get(name) != self.tables.get(name)]


def _planned() -> dict[str, list[str]]:
    """The arguments of `cloakbench` that make each result, by Snakemake's own plan."""
    command = _snakemake("--detailed-summary")
    plan = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    headings, *lines = [line.split("\t") for line in plan.splitlines()]
    output, words = headings.index("output_file"), headings.index("shellcmd")
    return {line[output]: _arguments(line[words]) for line in lines}


def _arguments(shell_command: str) -> list[str]:
    words = shlex.split(shell_command)
    ends = [number for number, word in enumerate(words) if word in {">", "2>"}]
    return words[words.index("cloakbench") + 1 : min(ends, default=len(words))]


def _snakemake(*options: str) -> list[str]:
    snakemake = Path(sys.executable).with_name("snakemake")
    return [str(snakemake), "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2", *options]


def _tables() -> dict[str, bytes]:
    """All that says numbers; provenance says times, too."""
    files = [*Path("results/tables").rglob("*.*"), *Path("results/report").rglob("*.svg")]
    kinds, others = {".csv", ".md", ".tex", ".svg"}, ("provenance", TWIN)
    found = [path for path in files if path.suffix in kinds and not path.name.startswith(others)]
    return {path.name: path.read_bytes() for path in found}


def outcome(study: Study, path: Path, way: str, rng: random.Random) -> tuple[str, str]:
    """What comes of a damage: its kind, and what was said."""
    WAYS[way](path, rng)
    _forget_what_follows(path)
    try:
        said = study.ask()
        if said:
            _follow(said)
            if again := study.ask():
                return "silent", f"{said} After its advice: {again}"
    except Exception as error:  # a traceback, which no user should see
        return "silent", repr(error)
    if different := study.changed():
        return "silent", f"{said} Other numbers in {', '.join(different)}."
    return ("named", said) if said else ("healed", "")


def _follow(said: str) -> None:
    """Do as an error's lines advise: delete a folder or file.

    Raises:
        ValueError: there is no such advice, or more than one line in one.
    """
    for line in said.split("\nerror: "):
        advice = re.search(r"Delete (it|the folder (\S+)) and run", line)
        if advice is None or "\n" in line:
            raise ValueError(line)
        place = Path(advice[2] or line.split(": ")[0])
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def _forget_what_follows(path: Path) -> None:
    """Delete the results that were made from a file's folder, so that it is read."""
    experiment = Experiment.parse(load([Path("config.yaml")]))
    for task in (task for tasks in all_tasks(experiment).values() for task in tasks):
        read = [place for _, place in inputs(task, experiment).values()]
        if any(path.is_relative_to(place) for place in read):
            made = result(task, experiment)
            shutil.rmtree(made.parent) if made.name == MANIFEST else made.unlink()


def interrupt(study: Study) -> None:
    """Leave a training's checkpoint in the place of its result, as a kill does."""
    steps = Job.steps

    def mortal(self: Job, name: str, total: int, state: Any) -> Iterator[int]:
        for step in steps(replace(self, save_every=0.0), name, total, state):
            if step:
                raise Stop
            yield step

    output = Path(next(name for name in study.commands if "/personalised/" in name))
    shutil.rmtree(output.parent)
    with mock.patch.object(Job, "steps", mortal), contextlib.suppress(Stop):
        study.run(output)


def run_study(folder: Path) -> Path:
    """A small study, finished."""
    place = folder / "finished"
    place.mkdir()
    people = sorted((REPOSITORY / "resources" / "identities").glob("*/"))[:PEOPLE]
    for person in people:
        shutil.copytree(person, place / "identities" / person.name)
    default = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    default["models"]["mini"]["path"] = str(REPOSITORY / "resources" / "mini")
    config = default | STUDY | {"identities": [people[0].name]}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    run = subprocess.run(_snakemake(), cwd=place, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"the study failed:\n{run.stdout}{run.stderr}")
    return place


def draw(place: Path, pattern: str, count: int, rng: random.Random) -> list[tuple[Path, str]]:
    """Files, relative to a study's folder, and what happens to each."""
    files = [path.relative_to(place) for path in sorted(place.glob(pattern)) if path.is_file()]
    drawn = [(path, way) for path in files if path.name != LOCK for way in WAYS]
    while len(drawn) < count:  # bits and places are drawn anew each time
        drawn += drawn
    return rng.sample(drawn, count)


def damage(root: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Path, str, str]]:
    """Damages, each to a study that is whole but for it: outcome, file, way, what was said."""
    finished = run_study(root)
    os.chdir(finished)
    study = Study()
    shutil.copytree(finished, root / "stopped")
    os.chdir(root / "stopped")
    interrupt(study)
    of_checkpoints = count // 10
    wanted = [
        (finished, "results/**/*", count - of_checkpoints),
        (root / "stopped", "results/.scratch/*/*/*.pt", of_checkpoints),
    ]
    damages = [(place, *one) for place, *files in wanted for one in draw(place, *files, rng)]
    for place, path, way in tqdm(damages, desc="damages", disable=None):
        os.chdir(root)
        shutil.rmtree("damaged", ignore_errors=True)
        shutil.copytree(place, "damaged")
        os.chdir("damaged")
        kind, said = outcome(study, path, way, rng)
        yield kind, path, way, said


def main() -> None:
    """Run the study, damage it, and count; exit with 1 if any damage was silent."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--damages", type=int, default=300, help="how many (300)")
    parser.add_argument("--seed", type=int, default=0, help="of files, bits and places (0)")
    parser.add_argument("--json", action="store_true", help="print the counts, for machines")
    arguments = parser.parse_args()
    counts = dict.fromkeys(("healed", "named", "silent"), 0)
    with tempfile.TemporaryDirectory() as folder:
        for kind, path, way, said in damage(
            Path(folder), arguments.damages, random.Random(arguments.seed)
        ):
            counts[kind] += 1
            if not arguments.json:
                print(f"{kind:<7} {way:<8} {path} {said}", flush=True)
        os.chdir(REPOSITORY)
    total = {"damages": sum(counts.values()), **counts}
    print(json.dumps(total) if arguments.json else total)
    sys.exit(counts["silent"] > 0)


if __name__ == "__main__":
    main()
