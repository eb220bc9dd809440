"""Run the whole study once at Stable Diffusion's size: time and peak memory of every job.

    python tools/full_size.py
    python tools/full_size.py --architecture sd21 --protections aspl --trainers dreambooth cdl
    python tools/full_size.py --dataset PHOTOS --model FOLDER --preset null --precision bf16

Weights are drawn at random in the architecture, so samples are noise; what is tried is that the
whole workflow runs on the real thing, and what its jobs take. Every method takes its fewest steps
(its preset `tiny`); on a CPU that is a quarter of an hour or more, and methods that train all
weights want several times the memory of `advdm` and `lora`. The model takes 4 GB of disk, where
temporary files go.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cloakbench.models import architectures
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify import purifiers

REPOSITORY = Path(__file__).resolve().parents[1]
FEW = {"images": 2, "steps": 2, "sampler": "ddim", "batch_size": 2}


class Cost(NamedTuple):
    """What a job took: seconds by the clock, seconds of processor time, peak memory [GB]."""

    job: str
    wall: float
    cpu: float
    memory: float


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


def configure(model: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """The experiment: one identity, every chosen method, the fewest images."""
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
        "class_images": FEW,
        "sampling": FEW,
        "metrics": ["fdfr", "ism", "relative_ims", "brisque"],
    }


def run(folder: Path, config: dict[str, Any]) -> Iterator[Cost]:
    """What each job of the workflow took.

    Raises:
        SystemExit: a job fails; Snakemake says which.
    """
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [snakemake, "--snakefile", REPOSITORY / "Snakefile", "--cores", "1", "--keep-going"]
    failed = subprocess.run(command, cwd=folder, check=False).returncode
    benchmarks = folder / "results" / "benchmarks"
    for path in sorted(benchmarks.rglob("*.tsv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        # benchmarks/MODEL/DATASET/IDENTITY/STAGE/METHODS.tsv; fewer folders for what all share
        job = "/".join(path.relative_to(benchmarks).with_suffix("").parts[3:] or [path.stem])
        yield Cost(job, float(row["s"]), float(row["cpu_time"]), float(row["max_rss"]) / 1000)
    if failed:
        sys.exit("error: a job failed; see above")


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
    parser.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloakbench-full-size-") as name:
        folder = Path(name)
        if (model := chosen.model) is None:
            model = folder / "model"
            make_model(chosen.architecture, model)
        costs = []
        for cost in run(folder, configure(model.resolve(), chosen)):
            costs.append(cost._asdict())
            if not chosen.json:
                print(
                    f"{cost.job:40} {cost.wall:7.1f} s, {cost.cpu:7.1f} s of processor time, "
                    f"{cost.memory:5.1f} GB"
                )
        if chosen.json:
            print(json.dumps(costs, indent=2))


if __name__ == "__main__":
    main()
