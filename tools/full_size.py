"""Run the whole study once at Stable Diffusion's size: time and peak memory of every job.

    python tools/full_size.py
    python tools/full_size.py --architecture sd21 --protections aspl --trainers dreambooth cdl
    python tools/full_size.py --preset null --precision bf16 --images 16 --steps 50 --card h100

Weights are drawn at random in the architecture, so samples are noise; what is tried is that the
whole workflow runs on the real thing, and what its jobs take. Every method takes its fewest steps
(its preset `tiny`); on a CPU that is a quarter of an hour or more, and methods that train all
weights want several times the memory of `advdm` and `lora`. The model takes 4 GB of disk, where
temporary files go. With a card's name, what a job took stands beside what is counted for it, and
the share of the card's peak that it got, imports and all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.needs import Need, Needs
from cloakbench.experiment.plan import CARDS
from cloakbench.experiment.tasks import Task, all_tasks, manifest
from cloakbench.files.verified import load_manifest
from cloakbench.models import architectures
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.running.benchmark import read_benchmark
from cloakbench.running.gpu import PEAK

REPOSITORY = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    """What a job took: seconds by the clock and of processor time, and at most of memory [GB].

    device: of a GPU's memory. counted: what of it is counted; flops: what is counted as work, and
    share: how much of the card's peak that is. None where there is no such thing.
    """

    job: str
    wall: float
    cpu: float
    memory: float
    device: float | None
    counted: float | None = None
    flops: float | None = None
    share: float | None = None


def make_model(name: str, folder: Path) -> None:
    """Write a model of an architecture with random weights, in diffusers' format."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    parts = architectures.parts(ModelSpec(path=name))
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)


def configure(model: Path, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The experiment: one identity, every chosen method, few images."""
    few = {"images": chosen.images, "steps": chosen.steps, "sampler": "ddim", "batch_size": 8}
    people = sorted(each.name for each in chosen.dataset.iterdir() if each.is_dir())
    spec = {"path": str(model), "resolution": chosen.resolution, "precision": chosen.precision}
    return {
        "experiment": "full-size",
        "model": "full",
        "models": {"full": spec},
        "dataset": "people",
        "datasets": {"people": {"path": str(chosen.dataset.resolve())}},
        "identities": people[:1],
        "preset": None if chosen.preset == "null" else chosen.preset,
        "protections": chosen.protections,
        "purifications": chosen.purifications,
        "trainers": chosen.trainers,
        "class_images": few,
        "sampling": few,
        "results": str(folder / "results"),
        "metrics": ["fdfr", "ism", "relative_ims", "brisque"],
    }


def run(folder: Path, config: dict[str, Any], card: str | None) -> Iterator[Cost]:
    """What each job of the workflow took.

    card: of `plan.CARDS`, to compare with what is counted.

    Raises:
        SystemExit: a job fails; Snakemake says which.
    """
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [snakemake, "--snakefile", REPOSITORY / "Snakefile", "--cores", "1", "--keep-going"]
    failed = subprocess.run(command, cwd=folder, check=False).returncode
    experiment = Experiment.read([str(path)])
    needs = Needs(experiment, large=CARDS[card].large) if card else None
    for task in (each for tasks in all_tasks(experiment).values() for each in tasks):
        if (cost := measured(task, experiment)) is not None:
            need = needs and needs.of(task)
            yield beside(cost, need, speed(card, config)) if need and card else cost
    if failed:
        sys.exit("error: a job failed; see above")


def measured(task: Task, experiment: Experiment) -> Cost | None:
    """What the job's benchmark and manifest say; None of a job that did not run."""
    if (benchmark := read_benchmark(experiment.layout.benchmark(*task))) is None:
        return None
    took = (load_manifest(manifest(task, experiment)) or {}).get("took", {})
    methods = [*vars(task.cell).values()][4:]
    return Cost(
        "/".join([task.stage, *filter(None, methods)]),
        benchmark.seconds,
        benchmark.cpu_seconds,
        benchmark.memory / 1000,
        took[PEAK] / 1e9 if PEAK in took else None,
    )


def beside(cost: Cost, need: Need, peak: float) -> Cost:
    """What a job took, and what is counted for it. peak: the card's [FLOP/s]."""
    share = need.flops / cost.wall / peak
    return cost._replace(counted=need.device / 1e9, flops=need.flops, share=share)


def speed(card: str, config: dict[str, Any]) -> float:
    """A card's peak at the experiment's precision [FLOP/s]."""
    peak: float = getattr(CARDS[card], config["models"]["full"]["precision"])
    return peak


def show(cost: Cost) -> None:
    """A line of it."""
    line = f"{cost.job:60} {cost.wall:8.1f} s, {cost.cpu:8.1f} s of processor time"
    line += f", {cost.memory:5.1f} GB"
    if cost.device is not None:
        line += f", of the card {cost.device:5.1f} GB"
    if cost.share is not None:
        line += f", counted {cost.counted:5.1f} GB; {cost.share:.1%} of its peak"
    print(line)


def main() -> None:
    """Make the model, run the workflow, print what its jobs took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bundled = REPOSITORY / "resources" / "identities"
    parser.add_argument("--dataset", type=Path, default=bundled, help="a folder of identities")
    parser.add_argument("--architecture", default="sd15", choices=architectures.ARCHITECTURES)
    parser.add_argument("--model", type=Path, help="a folder of a model instead of random weights")
    parser.add_argument("--resolution", type=int, default=512, help="[px]")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--preset", default="tiny", help="of all methods; null: their defaults")
    parser.add_argument("--protections", nargs="+", default=["advdm"], choices=protections.names())
    parser.add_argument("--purifications", nargs="+", default=["jpeg"], choices=purifiers.names())
    parser.add_argument("--trainers", nargs="+", default=["lora"], choices=trainers.names())
    parser.add_argument("--images", type=int, default=2, help="class images, samples per prompt")
    parser.add_argument("--steps", type=int, default=2, help="of their sampling")
    parser.add_argument("--card", choices=CARDS, help="what runs it, to compare with the counts")
    parser.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloakbench-full-size-") as name:
        folder = Path(name)
        if (model := chosen.model) is None:
            model = folder / "model"
            make_model(chosen.architecture, model)
        costs = []
        config = configure(model.resolve(), chosen, folder)
        for cost in run(folder, config, chosen.card):
            costs.append(cost._asdict())
            if not chosen.json:
                show(cost)
        if chosen.json:
            print(json.dumps(costs, indent=2))


if __name__ == "__main__":
    main()
