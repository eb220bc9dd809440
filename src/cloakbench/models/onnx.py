"""Networks in ONNX's format, run on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cloakbench.errors import CloakBenchError, reason


def session_options() -> Any:
    """Onnxruntime starts a thread per core unless told; a job's share is in OMP_NUM_THREADS."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    return options


@cache
def load_onnx(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    """A network of one input and the input's shape without the batch; the first output is flat.

    Raises:
        CloakBenchError: the file is broken, or its input is no picture of a fixed size.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), session_options())
    except Exception as error:  # onnxruntime raises its own, unrelated classes
        raise CloakBenchError(f"{path}: cannot be loaded ({reason(error)}).") from error
    given = session.get_inputs()[0]
    shape = tuple(given.shape[1:])
    if len(shape) != 3 or 3 not in shape or not all(isinstance(side, int) for side in shape):
        raise CloakBenchError(
            f"{path}: its input has shape {given.shape}, not that of an RGB picture of fixed size."
        )
    return lambda picture: session.run(None, {given.name: picture[None]})[0].ravel(), shape
