"""What metrics with networks cost, one image at a time and many at once, and whether they agree.

    python benchmarks/scoring.py
    python benchmarks/scoring.py q lpips --images 32 --side 512 --clip openai/clip-vit-base-patch16

The metrics look at pictures of noise, one after another as a study's do. CLIP is the miniature's
unless another is named; `liqe`, `q` and `lpips` need their weights. Seconds are without loading.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from cloakbench.models.device import choose_device, set_up_torch
from cloakbench.score.base import NetworkMetric, Sample, metrics
from cloakbench.score.references import NO_REFERENCES

BY_CLIP = ["clip_iqac", "clip_margin", "clip_prompt", "concept"]


class Cost(NamedTuple):
    """Of scores: by the clock, and of the processor."""

    seconds: float
    cpu_seconds: float


def pictures(count: int, side: int) -> list[Sample]:
    """Noise, as a changed photo and its original."""
    levels = np.random.default_rng(0).integers(0, 256, (2, count, side, side, 3), np.uint8)
    pairs = zip(*(map(Image.fromarray, part) for part in levels), strict=True)
    return [Sample(changed, None, original=original) for changed, original in pairs]


def each(chosen: list[NetworkMetric], samples: list[Sample], device: str) -> list[list[float]]:
    """One image at a time."""
    return [[metric.judge([sample], device)[0] for sample in samples] for metric in chosen]


def at_once(chosen: list[NetworkMetric], samples: list[Sample], device: str) -> list[list[float]]:
    """As the stages do it."""
    return [metric.judge(samples, device) for metric in chosen]


def timed(work: Callable[[], list[list[float]]]) -> tuple[Cost, list[list[float]]]:
    """What it costs, and what it gives."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return Cost(time.perf_counter() - clock, time.process_time() - cpu), found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", nargs="*", default=BY_CLIP, help=f"default: {' '.join(BY_CLIP)}")
    parser.add_argument("--clip", default="resources/mini/clip", help="folder or hub id")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=128, help="[px]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    device, chosen = choose_device(arguments.device), []
    for name in arguments.metrics:
        clip = {"clip": arguments.clip} if "clip" in metrics[name].model_fields else {}
        metric = metrics.build({"method": name, **clip})
        if not isinstance(metric, NetworkMetric):
            parser.error(f"{name} is no metric with a network of its own")
        metric.check()
        chosen.append(metric)
    for metric in chosen:
        metric.scores(pictures(1, arguments.side), NO_REFERENCES, "", device)  # loads
    samples = pictures(arguments.images, arguments.side)
    costs: dict[str, list[Cost]] = {"one at a time": [], "at once": []}
    values = {}
    for _ in range(arguments.repeats):
        for name, work in zip(costs, (each, at_once), strict=True):
            cost, values[name] = timed(lambda work=work: work(chosen, samples, device))
            costs[name].append(cost)
    found = {name: min(many)._asdict() for name, many in costs.items()}
    ratio = found["at once"]["cpu_seconds"] / found["one at a time"]["cpu_seconds"]
    faster = found["one at a time"]["seconds"] / found["at once"]["seconds"]
    difference = float(np.abs(np.subtract(*values.values())).max())
    made = {**found, "cpu_ratio": ratio, "times_faster": faster, "difference": difference}
    if arguments.json:
        print(json.dumps(made, indent=2))
        return
    for name, cost in found.items():
        print(f"{name:>14}: {cost['seconds']:.2f} s, {cost['cpu_seconds']:.2f} s of the processor")
    print(f"at once takes {ratio:.2f} of the processor's time; values differ by {difference:.1g}")


if __name__ == "__main__":
    main()
