"""What jobs take at Stable Diffusion's size, counted without a GPU, weights or photos.

    python benchmarks/scale.py                         # all methods, Stable Diffusion 1.5, 4 photos
    python benchmarks/scale.py aspl dreambooth --model sd15 --model sd21 --photos 8
    python benchmarks/scale.py --json
    python benchmarks/scale.py aspl lora --card h100   # and measured on this machine's GPU

Methods run on tensors without data (`cloakbench.counting`) with their default settings, in bf16 at
512 px, a cell samples 32 images. Purifications with networks of their own, as published, run these
in their precision, on one face in each photo. Memory is that of tensors: on a GPU add 1 GB for
CUDA, on the host 3 GB for the process. With --card they run on the GPU, too, on random weights and
photos: three steps of each loop, of which the third stands for those that follow.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from cloakbench.counting import CountedJob, Weightless, count
from cloakbench.errors import CloakBenchError, is_out_of_memory
from cloakbench.experiment.plan import CARDS as PEAKS
from cloakbench.experiment.plan import CUDA
from cloakbench.files.images import Photos
from cloakbench.identity import Identity
from cloakbench.models import architectures
from cloakbench.models.architectures import ARCHITECTURES
from cloakbench.models.device import deterministic, set_up_torch
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import Protection, ensemble, protections
from cloakbench.protect.pgd import pgd
from cloakbench.protect.simac import SimAC, Timesteps
from cloakbench.protect.surrogate import Denoising
from cloakbench.purify.base import Purifier, build_purifier
from cloakbench.registry import Spec
from cloakbench.running.jobs import Job, Stateful
from cloakbench.weightless import weightless

CARDS = (12, 16, 24, 40, 80)  # GiB
DEVICE = "cuda"
SIDE = 512
IMAGES = 32
TRIO = ("sd14", "sd21")  # beside the experiment's own

Work = Callable[[Weightless, CountedJob], Any]


class Row(NamedTuple):
    """A job, or a step of one: what it is called, its stage, and what it does.

    uses: as a method's. vae_alone: whether it loads nothing else of the model.
    """

    method: str
    stage: str
    work: Work
    uses: frozenset[str] = frozenset({"model"})
    vae_alone: bool = False


def photos(number: int) -> Photos:
    """Photos that nobody looks at: one of noise, again and again."""
    return Photos(torch.rand(1, 3, SIDE, SIDE).expand(number, -1, -1, -1), tuple("x" * number))


def people(number: int) -> Identity:
    """An identity with as many photos in each set, and the scripts' 200 class images."""
    return Identity(photos(number), Prompts(), photos(number), photos(200))


def rows(number: int) -> Iterator[Row]:
    """All that is counted, for a number of photos."""
    identity = people(number)
    for name, spec in protection_specs().items():
        method = protections.build(spec)
        work = partial(protect, method, identity)
        yield Row(name, "protect", work, method.uses, method.vae_alone)
    for trainer in [*(trainer() for trainer in trainers), SMALL]:
        name = "dreambooth small" if trainer is SMALL else trainer.name
        yield Row(name, "personalise", partial(train, trainer, identity))
    for name, spec in PURIFIERS.items():
        purifier = build_purifier(spec)
        work = partial(purify, purifier, identity)
        yield Row(name, "purify", work, purifier.uses, purifier.vae_alone)
    yield Row("sampling", "sample", sample)
    yield Row("pgd", "step", partial(pgd_step, identity))
    yield Row("simac", "search", search)


SMALL = trainers.build({"method": "dreambooth", "preset": "small"})
PURIFIERS: dict[str, Spec] = {
    "impress": {"method": "impress", "perceptual": "dssim"},
    "latent_diffpure": {"method": "latent_diffpure"},
    "vae_roundtrip": {"method": "vae_roundtrip", "weights": None},
    "codesr": {"method": "codesr"},
    "codeformer": {"method": "codeformer"},
    "superres": {"method": "superres"},
    "superres spandrel": {"method": "superres", "backend": "spandrel"},
    "diffpure": {"method": "diffpure"},
    "ddspure": {"method": "ddspure"},
    "gridpure": {"method": "gridpure"},
}
"""Those that run networks; noisy_upscaling runs that of superres."""


def protection_specs() -> dict[str, Spec]:
    """Every protection that works with a model, by its name, and variants that differ in size."""
    specs: dict[str, Spec] = {
        method.name: {"method": method.name} for method in protections if "model" in method.needs
    }
    specs["glaze"] = {"method": "glaze", "perceptual": "dssim"}
    for name in ("aspl", "simac"):
        specs[f"{name} faithful"] = {"method": name, "faithful": True}
    for name in ("easpl", "efsmg"):
        specs[f"{name} three models"] = {"method": name, "models": TRIO}
    specs["metacloak lite"] = {"method": "metacloak", "preset": "lite"}
    return specs


def protect(method: Protection, identity: Identity, model: Weightless, job: CountedJob) -> None:
    """The work of a protection."""
    method.apply(identity, lambda: model, job)


def train(trainer: Trainer, identity: Identity, model: Weightless, job: CountedJob) -> None:
    """The work of a trainer."""
    trainer.fit(model, identity, job)


def purify(
    purifier: Purifier, identity: Identity, model: Weightless | None, job: CountedJob
) -> None:
    """The work of a purification."""
    purifier.apply(identity.instance_images.pixels, lambda: model, job)


def sample(model: Weightless, job: CountedJob) -> None:
    """The images of a cell."""
    sampling = Sampling()
    for _ in job.steps("sample", IMAGES // sampling.batch_size, {}):
        sampling.generate(model, "", range(sampling.batch_size))


def pgd_step(identity: Identity, model: Weightless, job: CountedJob) -> None:
    """One step of PGD on the denoising loss, all photos at once."""
    loss, original = Denoising(model, "", job), identity.instance_images.pixels.to(model.device)
    with model.frozen():
        job.counts.restart()
        pgd(original, original, loss, radius=0.1, step_size=lambda _: 0.01, steps=range(1))


def search(model: Weightless, job: CountedJob) -> None:
    """A round of SimAC's search for one photo."""
    method, photo = SimAC(search_rounds=1), photos(1)
    with model.frozen():
        tried = method.tried(Identity(photo, Prompts()), model, job)
        job.counts.restart()
        method.search(tried, photo.pixels.to(model.device), Timesteps(1, model.horizon), job)


def counted(row: Row, model: str, number: int, card: str | None) -> dict[str, Any]:
    """A row's numbers, as --json prints them. card: measure it, too, on this one."""
    spec = ModelSpec(path=model, precision="bf16") if "model" in row.uses else None
    large = card is not None and PEAKS[card].large
    tally = partial(count, spec, row.work, vae_alone=row.vae_alone, large=large)
    first = tally()
    frugal = tally(frugal=True) if spec else first  # without a model there is nothing to spare
    on_card = {"measured": tried(row, spec, card, first.flops)} if card else {}
    return on_card | {
        "method": row.method,
        "stage": row.stage,
        "model": model if spec else "own",
        "photos": number,
        "flops": first.flops,
        "gpu_gb": first.gpu / 1e9,
        "gpu_gb_frugal": frugal.gpu / 1e9,
        **{
            f"{name}_gb{suffix}": getattr(each, name) / 1e9
            for suffix, each in {"": first, "_frugal": frugal}.items()
            for name in ("host", "checkpoint", "disk", "moved")
        },
        "operators": round(first.operators),
        "parts_gb": {part: size / 1e9 for part, size in first.parts.items()},
    }


@dataclass
class Clock:
    """Seconds of a GPU, those of steps that did not run among them."""

    begun: float = 0.0
    left_out: float = 0.0

    def now(self) -> float:
        """Seconds since the start, once the GPU has done what it was given."""
        torch.cuda.synchronize()
        return time.perf_counter() - self.begun + self.left_out

    def restart(self) -> None:
        """Forget all but what memory is in use."""
        torch.cuda.reset_peak_memory_stats()
        self.left_out = 0.0
        self.begun += self.now()


@dataclass(frozen=True)
class TimedJob(Job):
    """A job of whose loops three steps run, and all are timed."""

    counts: Clock = field(default_factory=Clock)

    def steps(self, name: str, total: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        each = 0.0
        for step in super().steps(name, total, state):
            if step >= 3:
                self.counts.left_out += each
                continue
            before = self.counts.now()
            yield step
            each = self.counts.now() - before


def random_model(
    spec: ModelSpec, device: str = "cpu", frugal: bool = False, *, vae_alone: bool = False
) -> StableDiffusion:
    """A model with the weights that torch draws."""
    with torch.device(device):
        parts = architectures.parts(spec, vae_alone=vae_alone)
    scheduler = parts["scheduler"]
    parts["scheduler"] = type(scheduler).from_config(scheduler.config)  # its tables on the host
    return StableDiffusion(spec, **parts, device=device, frugal=frugal)


def measured(row: Row, spec: ModelSpec | None, *, frugal: bool) -> dict[str, float]:
    """What a row takes of this machine's GPU.

    reserved_gb: of what torch took of the card, pieces that are too small to be used among it.
    """
    clock = Clock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(patch("cloakbench.models.loading.load_model", random_model))
        stack.enter_context(patch.object(ensemble, "is_same", lambda a, b: a.path == b.path))
        networks = weightless(lambda run, steps: run(steps), lambda network: None, DEVICE)
        stack.enter_context(networks)
        model = spec and random_model(spec, DEVICE, frugal, vae_alone=row.vae_alone)
        clock.restart()
        row.work(model, TimedJob(0, DEVICE, folder, math.inf, counts=clock))
        seconds = clock.now()
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"seconds": seconds, "gb": peaks[0] / 1e9, "reserved_gb": peaks[1] / 1e9}


def tried(row: Row, spec: ModelSpec | None, card: str, flops: float) -> list[dict[str, Any]]:
    """Both tries, measured; one that cannot be made says why not."""
    found: list[dict[str, Any]] = []
    for frugal in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            took = deterministic(partial(measured, row, spec, frugal=frugal))
            found.append({**took, "share": flops / took["seconds"] / PEAKS[card].bf16})
        except CloakBenchError as error:
            return [*found, {"failed": str(error)}]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found.append({"failed": "out of memory"})
    return found


def fits(gigabytes: float) -> str:
    """The smallest card that it fits."""
    card = next((card for card in CARDS if gigabytes * 1e9 + CUDA <= card * 2**30), None)
    return f"{card} GB" if card else "none"


def show(found: Iterable[dict[str, Any]]) -> None:
    """Lines for each row, as they come."""
    titles = ("GB", "card", "frugal", "card", "host", "disk", "moved", "operators")
    print(f"{'':38}{'TFLOP':>10}" + "".join(f"{title:>10}" for title in titles))
    for row in found:
        gpu, frugal = row["gpu_gb"], row["gpu_gb_frugal"]
        print(
            f"{row['method']:22}{row['stage']:12}{row['model']:4}{row['flops'] / 1e12:10.1f}"
            f"{gpu:10.1f}{fits(gpu):>10}{frugal:10.1f}{fits(frugal):>10}{row['host_gb']:10.1f}"
            f"{row['disk_gb']:10.1f}{row['moved_gb']:10.1f}{row['operators']:10,}"
        )
        parts = sorted(row["parts_gb"].items(), key=lambda part: -part[1])
        named = ", ".join(f"{part} {size:.2f}" for part, size in parts if size > 0.005)
        print(f"    {named}", flush=True)
        for name, took in zip(("first", "frugal"), row.get("measured", ()), strict=False):
            print(f"    measured, {name} try: {said(took)}", flush=True)


def said(took: dict[str, Any]) -> str:
    """What was measured of a try, in words."""
    if "failed" in took:
        return str(took["failed"])
    return (
        f"{took['seconds']:.1f} s, {took['gb']:.1f} GB ({took['reserved_gb']:.1f} reserved), "
        f"{took['share']:.1%} of the card's peak"
    )


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="as they are called in the table; default: all")
    parser.add_argument("--model", action="append", choices=ARCHITECTURES, help="default: sd15")
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--card", choices=sorted(PEAKS), help="this machine's GPU: measure on it")
    parser.add_argument("--json", action="store_true", help="a list of objects")
    arguments = parser.parse_args()
    set_up_torch(None)
    found = (
        counted(row, model, arguments.photos, arguments.card)
        for number, model in enumerate(arguments.model or ["sd15"])
        for row in rows(arguments.photos)
        if not arguments.methods or row.method in arguments.methods
        if number == 0 or "model" in row.uses
    )
    print(json.dumps(list(found), indent=2)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
