"""How models run on a device: which one, repeatable kernels, and what to do when memory ends."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from cloakbench.errors import CloakBenchError, first_line, is_out_of_memory
from cloakbench.models.loading import Loader, load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.running.gpu import claim_gpu

log = logging.getLogger(__name__)

T = TypeVar("T")


def choose_device(name: str) -> str:
    """The device of a name: `auto` is cuda where a GPU is usable and else cpu.

    Of several GPUs this process takes one for itself.

    Raises:
        CloakBenchError: it is unknown, or not to be had here.
    """
    import torch

    if name == "auto":
        claim_gpu()
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CloakBenchError(
            f"--device {name}: {first_line(error).rstrip('.')}. Choose auto or cpu."
        ) from None
    if torch.device(name).type == "cuda" and torch.device(name).index is not None:
        torch.cuda.set_device(name)  # or kernels would be recorded on another
    return name


def set_up_torch(threads: int | None) -> None:
    """Deterministic kernels, and as many CPU threads as the workflow grants and the machine has.

    float32 is float32 on a GPU, too: without TF32's 10 bits, which torch lets convolutions use.
    """
    import torch

    if threads:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    _set_determinism("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def with_model(
    work: Callable[[Loader], T], model: ModelSpec, device: str, *, vae_alone: bool = False
) -> T:
    """Do work that loads a model; where memory runs out, once more with a frugal model.

    The second try goes on from the last checkpoint, and its results are the same (see
    `DiffusionModel`). vae_alone: whether the work can do with the model's VAE.

    Raises:
        CloakBenchError: memory ran out twice.
    """
    import torch

    load = partial(load_model, model, device, vae_alone=vae_alone)
    try:
        return deterministic(lambda: work(load))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    log.warning(
        "%s: out of memory; once more with gradient checkpointing and one sample at a time: "
        "slower, with the same results.",
        device,
    )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return deterministic(lambda: work(partial(load, frugal=True)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        ways = [] if model.precision == "bf16" else ["set the model's precision to bf16"]
        ways += getattr(error, "__notes__", ())
        raise CloakBenchError(
            f"{device}: out of memory, also with gradient checkpointing and one sample at a "
            f"time. {_any_of([*ways, 'use a device with more memory'])}; then run the same command "
            "again."
        ) from None


def _any_of(ways: Sequence[str]) -> str:
    """A sentence that says what would help: "Do this, do that, or do the other"."""
    *others, last = ways
    said = f"{', '.join(others)}, or {last}" if others else last
    return said[:1].upper() + said[1:]


def deterministic(work: Callable[[], T]) -> T:
    """Do work with kernels whose gradients do not vary, if there are such for all that it does.

    Only where torch may refuse a kernel does it choose attention whose gradients repeat on a GPU;
    told to warn, it takes the faster one. After a refusal, work goes on from its last checkpoint.
    """
    _set_determinism("error")
    try:
        return work()
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        log.warning("%s; going on without: runs may differ in the last digits.", _first(error))
    finally:
        _set_determinism("warn")
    return work()


def _set_determinism(mode: str) -> None:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may vary
    torch.set_deterministic_debug_mode(mode)  # use_deterministic_algorithms imports a compiler


def _first(error: Exception) -> str:
    """The first sentence of an error."""
    return str(error).split(", but", 1)[0].split(". ", 1)[0]
