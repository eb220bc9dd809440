"""How long purifications take for an image, and where the time goes.

    python benchmarks/purifications.py                            # CodeSR, TVM, IMPRESS and JPEG
    python benchmarks/purifications.py impress resize+jpeg --sides 128 --images 4 --output cost.json

Any registered purification can be named; names joined by + are a chain. One whose weights are
missing is skipped, and the reason is printed. Loading and a first run on a small picture are timed
apart, as the warm-up. Chains are timed link by link; an extra run under torch's profiler says which
operators a link spends its time in, on a GPU which kernels. Work of Pillow, ncnn and Python is
"outside torch".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import photo_files, read_photo, square_crop, to_pixels
from cloakbench.models.base import DiffusionModel
from cloakbench.models.device import choose_device, set_up_torch
from cloakbench.models.loading import Loader, load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.purify import Purifier, purifiers
from cloakbench.purify.base import build_purifier
from cloakbench.purify.chain import Chain
from cloakbench.registry import Spec
from cloakbench.running.jobs import Job

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT = ("codesr", "tvm", "impress", "jpeg")
WARM_UP_SIDE = 64  # px

Clean = Callable[[], Tensor]


@dataclass
class Link:
    """A link of a chain, or all of another purification: seconds per image of every run, by the
    clock and of the processor, and the shares of a run's time by operator.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    operators: dict[str, float] = field(default_factory=dict)


@dataclass
class Cost:
    """A purification at one size."""

    purification: str
    side: int
    warm_up: float
    links: list[Link]

    def rows(self) -> list[Link]:
        """The whole, then the links of a chain."""
        clock = [sum(runs) for runs in zip(*(link.seconds for link in self.links), strict=True)]
        cpu = [sum(runs) for runs in zip(*(link.processor for link in self.links), strict=True)]
        parts = [Link(f"- {link.name}", link.seconds, link.processor) for link in self.links]
        return [Link(self.purification, clock, cpu), *(parts if len(parts) > 1 else [])]


def build(text: str, preset: str) -> Purifier:
    """A purification by name, or a chain of names joined by +, each in the preset if it has it."""

    def spec(name: str) -> Spec:
        return {"method": name} | ({"preset": preset} if preset in purifiers[name].presets else {})

    chain: list[Spec | str] = [spec(name) for name in text.split("+")]
    return build_purifier(chain if len(chain) > 1 else chain[0])


def links_of(purifier: Purifier) -> list[Purifier]:
    """What a chain runs one after another, chains within it included; any other is one link."""
    if not isinstance(purifier, Chain):
        return [purifier]
    return [link for part in purifier.parts for link in links_of(part)]


def run(purifier: Purifier, pixels: Tensor, load: Loader, job: Job) -> list[Clean]:
    """The links' work in order, each on what the one before has returned."""
    results = [pixels]

    def work(number: int, link: Purifier) -> Tensor:
        cleaned = link.apply(results[number], load, job.part(number)).detach()
        results.append(cleaned.cpu().clamp(0, 1))  # a GPU is done, too
        return cleaned

    return [lambda n=n, link=link: work(n, link) for n, link in enumerate(links_of(purifier))]


def measure(link: Link, clean: Clean, images: int) -> None:
    """Time a link's work once."""
    clock, processor = time.perf_counter(), time.process_time()
    clean()
    link.seconds.append((time.perf_counter() - clock) / images)
    link.processor.append((time.process_time() - processor) / images)


def look_into(link: Link, clean: Clean, on_gpu: bool, top: int) -> None:
    """Run a link's work under the profiler and keep the operators with a hundredth or more."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    begun = time.perf_counter()
    with profile(activities=kinds) as profiler:
        clean()
    total = 1e6 * (time.perf_counter() - begun)  # the profiler counts microseconds
    used = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    used["GPU idle" if on_gpu else "outside torch"] = max(0.0, total - sum(used.values()))
    largest = sorted(used, key=lambda key: -used[key])[:top]
    link.operators = {key: used[key] / total for key in largest if used[key] >= 0.01 * total}


def costs(
    text: str,
    photos: Callable[[int], Tensor],
    load: Loader,
    options: Options,
) -> list[Cost]:
    """Measure a purification at every size.

    Raises:
        CloakBenchError: something that it needs is missing.
    """
    begun = time.perf_counter()
    purifier = build(text, options.preset)
    purifier.check()
    purifier.apply(photos(WARM_UP_SIDE)[:1], load, Job(0, options.device))
    warm_up = time.perf_counter() - begun
    found = []
    for side in options.sides:
        pixels = photos(side)
        cost = Cost(text, side, warm_up, [Link(link.name) for link in links_of(purifier)])
        for repeat in range(options.repeats):
            work = run(purifier, pixels, load, Job(repeat, options.device))
            for link, clean in zip(cost.links, work, strict=True):
                measure(link, clean, len(pixels))
        if options.top:
            work = run(purifier, pixels, load, Job(0, options.device))
            for link, clean in zip(cost.links, work, strict=True):
                look_into(link, clean, options.device.startswith("cuda"), options.top)
        found.append(cost)
    return found


def show(found: Sequence[Cost]) -> None:
    """Print what it costs, and of what."""
    print("\n| purification | side [px] | median [s/image] | min | CPU median | warm-up [s] |")
    print("|---|---|---|---|---|---|")
    for cost in found:
        for row in cost.rows():
            print(
                f"| {row.name} | {cost.side} | {statistics.median(row.seconds):.4f} | "
                f"{min(row.seconds):.4f} | {statistics.median(row.processor):.4f} | "
                f"{cost.warm_up:.1f} |"
            )
    if not any(link.operators for cost in found for link in cost.links):
        return
    print("\n| purification | link | side [px] | where the time goes |")
    print("|---|---|---|---|")
    for cost in found:
        for link in cost.links:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in link.operators.items())
            print(f"| {cost.purification} | {link.name} | {cost.side} | {shares} |")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    purifications: list[str]
    preset: str
    sides: list[int]
    images: int
    repeats: int
    top: int
    model: str
    identity: Path
    device: str
    threads: int
    output: Path | None


def parse() -> Options:
    """The options of the command line, with help."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("purifications", nargs="*", default=list(DEFAULT), help="names, or chains like resize+jpeg")
    add("--preset", default="mini", help="for those that have it")
    add("--sides", type=int, nargs="+", default=[128, 512], help="of the photos [px]")
    add("--images", type=int, default=1, help="photos in a run")
    add("--repeats", type=int, default=1, help="runs that are timed")
    add("--top", type=int, default=6, help="operators that are named; 0: no profile")
    add("--model", default=str(REPOSITORY / "resources/mini"), help="folder of a diffusion model")
    people = REPOSITORY / "resources/identities"
    add("--identity", type=Path, default=people / "person_000000", help="folder with set_B")
    add("--device", default="cpu", help="auto, cpu, cuda ...")
    add("--threads", type=int, default=1)
    add("--output", type=Path, help="JSON file for every run's figures")
    options = vars(parser.parse_args())
    return Options(**options | {"device": choose_device(options["device"])})


def main() -> None:
    """Measure one purification after another and print the tables."""
    options = parse()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler talks of GPUs that it cannot find
    set_up_torch(options.threads)
    images = [read_photo(file) for file in photo_files(options.identity / "set_B")][
        : options.images
    ]

    @cache
    def load() -> DiffusionModel:
        return load_model(ModelSpec(path=options.model), options.device)

    def photos(side: int) -> Tensor:
        return to_pixels([square_crop(image, side) for image in images])

    found: list[Cost] = []
    skipped: dict[str, str] = {}
    for text in options.purifications:
        print(f"{text} ...", file=sys.stderr, flush=True)
        try:
            found += costs(text, photos, load, options)
        except CloakBenchError as error:
            skipped[text] = str(error)

    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.device}, "
          f"{len(images)} image(s) a run, preset {options.preset}")  # fmt: skip
    show(found)
    for text, reason in skipped.items():
        print(f"\n{text} was skipped: {reason}")
    if options.output is not None:
        asked = {key: str(value) for key, value in asdict(options).items()}
        figures = {"options": asked, "costs": [asdict(cost) for cost in found], "skipped": skipped}
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
