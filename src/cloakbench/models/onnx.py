"""Networks in ONNX's format, run on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cloakbench.errors import CloakBenchError, reason


def session_options() -> Any:
    """Onnxruntime starts a thread per core unless told; a job's share is in OMP_NUM_THREADS."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    return options


class Halves(NamedTuple):
    """A network in two: up to what its last fully connected layer reads, which is called
    `features`, and from there on. Both are sessions of onnxruntime.
    """

    body: Any
    features: str
    head: Any

    def embed(self, features: np.ndarray) -> np.ndarray:
        """What the network makes of features, shape (n, k)."""
        return np.asarray(self.head.run(None, {self.features: features})[0])


@cache
def load_halves(path: Path) -> Halves:
    """A network in ONNX's format, cut before its last `Gemm`.

    Raises:
        CloakBenchError: it has none.
    """
    import onnx

    model = onnx.load(path)
    nodes = [*model.graph.node]
    cuts = [place for place, node in enumerate(nodes) if node.op_type == "Gemm"]
    if not cuts:
        raise CloakBenchError(
            f"{path}: has no fully connected layer before which dropout could be. Take another "
            "recogniser, such as buffalo_l's, or set dropout_passes to 0."
        )
    weights = {each.name for each in model.graph.initializer}
    given = [each for each in model.graph.input if each.name not in weights]
    features, constants = nodes[cuts[-1]].input[0], [n for n in nodes if n.op_type == "Constant"]
    flat = onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None)
    head = [*constants, *(node for node in nodes[cuts[-1] :] if node.op_type != "Constant")]
    return Halves(
        _part(model, nodes[: cuts[-1]], given, flat),
        features,
        _part(model, head, [flat], model.graph.output[0]),
    )


def _part(model: Any, nodes: Sequence[Any], given: Sequence[Any], found: Any) -> Any:
    """A session of some nodes of a network."""
    import onnx
    import onnxruntime

    read = {name for node in nodes for name in node.input}
    weights = [each for each in model.graph.initializer if each.name in read]
    output = onnx.helper.make_tensor_value_info(found.name, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "part", given, [output], weights)
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=max(4, model.ir_version)
    )  # from 4 on weights are no inputs
    return onnxruntime.InferenceSession(part.SerializeToString(), session_options())


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
