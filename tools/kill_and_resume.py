"""Kill an experiment at random moments, resume it, and compare it with one that was left alone.

    python tools/kill_and_resume.py --kills 20

The experiment runs once undisturbed in `FOLDER/calm`, then in `FOLDER/killed`, where it is killed
in `personalise`, `protect`, `sample` (a job of its own only with `--keep-weights`) and any job in
turn, at moments drawn evenly over the time
that these jobs took, and started again with the same plain command. A kill is SIGTERM, then
SIGKILL, to one job or to everything, or SIGKILL to Snakemake alone, whose jobs then go on without
it. At the end the same files with the same bytes must be there. Options that are not listed go to
Snakemake.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from statistics import fmean

import psutil
import yaml
from PIL import Image

from cloakbench.files.digest import digest

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("personalise", "protect", "sample", "")  # "": any job
WAYS = (  # what gets SIGTERM, and how long it may take to end before SIGKILL [s]
    ("one job", 30.0),  # SLURM's KillWait
    ("one job", 0.0),
    ("everything", 30.0),
    ("everything", 0.0),
    ("snakemake alone", 0.0),
)
LIMIT = 60.0  # seconds of work that a kill may cost
LAST = 0.9  # share of a job's time after which it is left alone: no two runs are equally fast

EXCLUDED = {  # files of which equal runs have different ones
    "logs/*": "what jobs say, with times",
    "benchmarks/*": "times",
    "tables/*/provenance.*": "times and hardware",
    "tables/*/purifiers.*": "times",
    "tables/*/job.json": "digests of those",
    ".scratch/*": "checkpoints of jobs that are not finished",
    ".outdated": "when something was found to be out of date",
    ".running": "the process that ran last",
    "*.part": "what a killed job was writing, which nothing reads",
}

SHORT_DEMO = {  # laid over config.yaml: the bundled model, minutes instead of a quarter of an hour
    "experiment": "short",
    "protections": ["noise", {"method": "aspl", "rounds": 12}],
    "purifications": ["jpeg"],
    "trainers": [{"method": "dreambooth", "steps": 60}, {"method": "lora", "steps": 60}],
    "class_images": {"images": 8, "steps": 10, "sampler": "dpmpp"},
    "sampling": {"images": 8, "steps": 10, "sampler": "dpmpp", "batch_size": 2},
}


@dataclass
class Job:
    """A job of a running workflow. name: its command line, the same in every run. place: where its
    checkpoints are, in the scratch folder.
    """

    process: psutil.Process
    name: str
    stage: str
    place: str
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.process.create_time()

    @staticmethod
    def of(process: psutil.Process, words: list[str], folder: Path) -> Job:
        """By what a command is called with in a folder."""
        outputs = [words[n] for n, word in enumerate(words, 1) if word in {"--out", "--output"}]
        place = digest(str(folder.absolute() / outputs[0]))
        return Job(process, " ".join(words), words[0], place)

    @property
    def age(self) -> float:
        return time.time() - self.started

    def saved(self, results: Path) -> float:
        """When all that it had done until then was on the disk."""
        times = [self.started]
        paths = (results / ".scratch" / self.place).rglob("*")
        times += [p.stat().st_mtime for p in paths if p.suffix in {".pt", ".png", ".kept"}]
        return max(times)


@dataclass
class Workflow:
    """One `snakemake` in a folder, and its jobs."""

    folder: Path
    options: list[str]

    def __post_init__(self) -> None:
        snakemake = Path(sys.executable).with_name("snakemake")
        command = [snakemake, "--snakefile", REPOSITORY / "Snakefile", "--directory", self.folder]
        self.output = self.folder / "snakemake.out"
        with self.output.open("w") as output:
            self.process = psutil.Popen(
                [*map(str, command), *self.options],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Workflow:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.kill_group()

    def running(self) -> bool:
        return self.process.poll() is None

    def kill_group(self) -> None:
        """Kill Snakemake, its jobs and their shells."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def jobs(self) -> list[Job]:
        """The jobs that run now; what ends while we look is none."""
        found = []
        for process in _quietly(lambda: self.process.children(recursive=True), []):
            command = _quietly(process.cmdline, [])
            if command[1:4] == ["-P", "-m", "cloakbench"] and "--benchmark" in command:
                words = command[command.index("--benchmark") + 2 :]
                job = _quietly(partial(Job.of, process, words, self.folder), None)
                found += [job] if job else []
        return found


@dataclass(frozen=True)
class Moment:
    """A job of `stage`, `job` or one after it, when `share` of what it has to do is done."""

    job: int
    stage: str
    share: float
    way: tuple[str, float]


@dataclass(frozen=True)
class Kill:
    """What happened. repeated: seconds of work that were not on the disk."""

    job: Job
    age: float
    way: tuple[str, float]
    repeated: float


def _quietly(look, otherwise):
    try:
        return look()
    except psutil.Error:
        return otherwise


def run_undisturbed(folder: Path, options: list[str]) -> dict[str, tuple[str, float]]:
    """Stage and seconds of every job, in the order in which they began."""
    jobs: dict[str, tuple[str, float]] = {}
    with Workflow(folder, options) as workflow:
        while workflow.running():
            jobs |= {job.name: (job.stage, job.age) for job in workflow.jobs()}
            time.sleep(0.05)
    if workflow.process.returncode != 0:
        sys.exit(f"the undisturbed run failed:\n{workflow.output.read_text()}")
    return jobs


def draw_moments(
    jobs: dict[str, tuple[str, float]], kills: int, rng: random.Random
) -> list[Moment]:
    """Moments in the order of the jobs: the stages take turns, long jobs are hit more often."""
    moments = []
    ran = {"", *(stage for stage, _ in jobs.values())}
    stages = [stage for stage in STAGES if stage in ran]
    for number in range(kills):
        wanted = stages[number % len(stages)]
        weights = [seconds * (wanted in ("", stage)) for stage, seconds in jobs.values()]
        (job,) = rng.choices(range(len(weights)), weights)
        moments.append(Moment(job, wanted, LAST * rng.random(), rng.choice(WAYS)))
    return sorted(moments, key=lambda moment: (moment.job, moment.share))


def run_with_kills(
    folder: Path, options: list[str], jobs: dict[str, tuple[str, float]], moments: list[Moment]
) -> Iterator[Kill]:
    """Run the workflow to its end, and kill it at every moment that comes."""
    order = {name: number for number, name in enumerate(jobs)}
    left = {name: seconds for name, (_, seconds) in jobs.items()}  # before each is done
    pending = list(moments)
    while True:
        killed = False
        with Workflow(folder, options) as workflow:
            while workflow.running():
                running = workflow.jobs()
                due = [(m, job) for m in pending for job in running if is_due(m, job, order, left)]
                if due:
                    killed, (moment, job) = True, due[0]
                    pending.remove(moment)
                    done = {other.name: other.age for other in running}
                    one = kill(workflow, job, running, moment.way)
                    for name in done.keys() & left.keys():
                        left[name] -= max(0.0, done[name] - one.repeated)
                    yield one
                time.sleep(0.05)
        check_images(folder / "results")
        if workflow.process.returncode == 0:
            if " jobs done" not in workflow.output.read_text():
                return
            continue  # with --until, a run after a kill makes what was cut off, and no more
        if not killed:
            sys.exit(f"the resumed run failed by itself:\n{workflow.output.read_text()}")


def is_due(moment: Moment, job: Job, order: dict[str, int], left: dict[str, float]) -> bool:
    """Whether a running job is the one of the moment, and old enough."""
    wanted = moment.stage in ("", job.stage) and order.get(job.name, -1) >= moment.job
    return wanted and job.age >= moment.share * left[job.name]


def kill(workflow: Workflow, job: Job, running: list[Job], way: tuple[str, float]) -> Kill:
    """Kill in one way, and see how much of each killed job's work was not saved."""
    target, patience = way
    age, snakemake = job.age, workflow.process
    if target == "snakemake alone":
        snakemake.kill()
        snakemake.wait()
        return Kill(job, age, way, 0.0)  # its jobs go on, and the next run waits for them
    group = [job.process] if target == "one job" else [*(j.process for j in running), snakemake]
    ends: dict[int, float] = {}

    def note_end(process: psutil.Process) -> None:
        ends[process.pid] = time.time()

    send(group, signal.SIGTERM)
    _, alive = psutil.wait_procs(group, patience, note_end)
    send(alive, signal.SIGKILL)
    psutil.wait_procs(alive, callback=note_end)
    if target == "everything":
        workflow.kill_group()
    dead = [j for j in running if j.process.pid in ends]
    saved = [ends[j.process.pid] - j.saved(workflow.folder / "results") for j in dead]
    return Kill(job, age, way, max(0.0, *saved))


def send(processes: list[psutil.Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        _quietly(partial(process.send_signal, number), None)


def check_images(results: Path) -> None:
    """Stop if a picture that has its name is not whole."""
    for path in results.rglob("*.png"):
        if any(part.startswith(".") for part in path.relative_to(results).parts):
            continue
        try:
            with Image.open(path) as image:
                image.load()
        except OSError as error:
            sys.exit(f"{path}: half an image ({error})")


def compared(results: Path) -> dict[str, bytes]:
    """The files that equal runs have in common, with their bytes."""
    files = {p.relative_to(results).as_posix(): p for p in sorted(results.rglob("*"))}
    return {
        name: _without_times(path)
        for name, path in files.items()
        if path.is_file() and not any(fnmatch(name, pattern) for pattern in EXCLUDED)
    }


def _without_times(path: Path) -> bytes:
    """The bytes of a file; a manifest's without what the work took."""
    if path.name != "job.json":
        return path.read_bytes()
    return json.dumps(json.loads(path.read_bytes()) | {"took": None}).encode()


def make_folder(folder: Path, config: dict) -> Path:
    """A fresh folder in which plain `snakemake` runs the experiment."""
    folder.mkdir(parents=True)
    (folder / "resources").symlink_to(REPOSITORY / "resources")
    default = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(default | config))
    return folder


def main() -> None:
    """Run, kill, resume, compare; exit with 1 if anything differs or a kill cost too much."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ways (0)")
    parser.add_argument("--config", type=Path, help="laid over config.yaml; default: a short demo")
    parser.add_argument("--keep-weights", action="store_true", help="sample in jobs of its own")
    parser.add_argument("--folder", type=Path, help="a new one, kept; default: a temporary one")
    arguments, options = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    config = yaml.safe_load(arguments.config.read_text()) if arguments.config else SHORT_DEMO
    config = config | ({"keep_weights": True} if arguments.keep_weights else {})
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        calm = make_folder(root / "calm", config)
        killed = make_folder(root / "killed", config)
        begun = time.time()
        jobs = run_undisturbed(calm, options)
        print(f"undisturbed: {len(jobs)} jobs in {time.time() - begun:.0f} s", flush=True)
        moments = draw_moments(jobs, arguments.kills, random.Random(arguments.seed))
        begun, kills = time.time(), []
        for one in run_with_kills(killed, options, jobs, moments):
            kills.append(one)
            print(
                f"{len(kills):3}  {one.job.stage:<12} at {one.age:5.1f} s  {one.way[0]:<15} "
                f"SIGKILL after {one.way[1]:2.0f} s: {one.repeated:4.1f} s to do again",
                flush=True,
            )
        print(f"killed and resumed: {time.time() - begun:.0f} s")
        sys.exit(verdict(compared(calm / "results"), compared(killed / "results"), kills, moments))


def verdict(calm: dict, killed: dict, kills: list[Kill], moments: list[Moment]) -> int:
    """Print the figures; 0 if all is as it should be."""
    different = sorted(name for name in {*calm, *killed} if calm.get(name) != killed.get(name))
    for name in different:
        print(f"differs: {name}")
    for pattern, reason in EXCLUDED.items():
        print(f"not compared: {pattern} ({reason})")
    worst = max((one.repeated for one in kills), default=0.0)
    mean = fmean(one.repeated for one in kills) if kills else 0.0
    print(f"{len(calm)} files compared, {len(different)} different")
    print(f"{len(kills)} kills, {len(moments) - len(kills)} came too late for their job")
    print(f"work done twice: {worst:.1f} s at worst, {mean:.1f} s on average")
    return int(bool(different) or worst > LIMIT or not calm)


if __name__ == "__main__":
    main()
