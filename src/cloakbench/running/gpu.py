"""Which GPUs this machine has, and one of them for each job that runs on it.

Snakemake limits how many jobs use a GPU at once (`resources: gpu=`) but gives none of them away;
SLURM does, and shows a job only what it got.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

CHANGES_NO_RESULT = True

VISIBLE = "CUDA_VISIBLE_DEVICES"

LARGE = 40 * 10**9  # bytes of a GPU whose memory need not be spared

PEAK = "device_bytes"
"""What a manifest calls the most memory that a job's tensors took of a GPU."""

_claims: list[FileLock] = []  # held until the process ends, however it ends


def visible_gpus() -> list[str]:
    """The GPUs that a process started here can use, by CUDA's names: numbers or UUIDs."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return [name for name in given.split(",") if name not in ("", "-1", "NoDevFiles")]
    if (command := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False).stdout
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    return [str(number) for number in range(count)]


def claim_gpu() -> None:
    """Show this process only one GPU: of those that it sees, one that the fewest jobs have claimed.

    Nothing waits for a GPU here: Snakemake decides how many jobs run at once. Call it before CUDA
    is first used.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return
    folder = Path(tempfile.gettempdir()) / f"cloakbench-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "choosing"):
        chosen = min(gpus, key=lambda gpu: sum(map(_is_held, folder.glob(f"{_file(gpu)}.*"))))
        claim = FileLock(folder / f"{_file(chosen)}.{uuid.uuid4()}")  # containers share numbers
        claim.acquire(blocking=False)
    _claims.append(claim)
    os.environ[VISIBLE] = chosen


def _file(gpu: str) -> str:
    """What a GPU's files are called: old names of parts of one have slashes."""
    return gpu.replace("/", "-")


def _is_held(path: Path) -> bool:
    """Whether the process that locked a file still runs; forgets it if not."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    path.unlink(missing_ok=True)
    lock.release()
    return False


def peak_memory(device: str) -> dict[str, float]:
    """The most bytes that this process's tensors took of a GPU at once, as manifests note it."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {PEAK: float(torch.cuda.max_memory_allocated())}
