"""Networks on a GPU that are replayed from recordings instead of launched kernel by kernel.

A training step at Stable Diffusion's size is 8,000 small kernels: a host takes longer to launch
them than a large card to run them. A recording (a CUDA graph) launches all of a network's at once.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from cloakbench.errors import reason

log = logging.getLogger(__name__)

KEPT = 4  # recordings of a network

_launching: ContextVar[bool] = ContextVar("_launching", default=False)


def replayed(network: torch.nn.Module) -> Replay:
    """Have a network replay its recordings, none of which it has yet."""
    network.forward = Replay(network)
    return network.forward


class Replay:
    """A network's `forward` that records itself when it is called once more in the same way.

    The same way: with tensors of the same shapes, the same other arguments, the same precision, and
    weights at the same addresses, of which the same are trained. The kernels are those of a first
    call, and so are the numbers. Where hooks look inside, it is launched.
    """

    fails: ClassVar[bool] = False  # anywhere: after a failure no kernel is recorded any more

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = weakref.ref(network)  # a cycle would keep a model's memory
        self._forward: Callable[..., Any] = type(network).forward
        self._seen: set[int] = set()
        self._kept: dict[Hashable, _Recording] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        network = self._network()
        assert network is not None
        forward = partial(self._forward, network)
        leaves, tree = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if Replay.fails or _launching.get() or not _can_replay(tensors) or _is_watched(network):
            return forward(*args, **kwargs)
        weights = tuple(network.parameters())
        key = (tree, *map(_kind, leaves), *map(_place, weights), *_mode())
        if key not in self._kept and hash(key) in self._seen and _may_record():
            self._record(key, forward, leaves, tree, weights)
        self._seen.add(hash(key))
        recording = self._kept.get(key)
        return recording(tensors, weights) if recording else forward(*args, **kwargs)

    @property
    def trains(self) -> bool:
        """Whether gradients of weights are in the memory of a recording."""
        return not Replay.fails and any(each.trains for each in self._kept.values())

    def forget(self) -> None:
        """Free the memory of all recordings."""
        self._kept.clear()
        self._seen.clear()

    def _record(self, key: Hashable, *call: Any) -> None:
        """Keep a recording; if it fails, networks run as they always did."""
        while len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)))
        try:
            self._kept[key] = _Recording(*call)
        except RuntimeError as error:
            if "deterministic" in str(error):
                raise
            log.warning("kernels go one by one: they cannot be recorded (%s)", reason(error))
            Replay.fails = True
            self.forget()


class _Recording:
    """One way of calling a network: its kernels, and those of its gradient.

    Both work in the same memory: what one of them has made lasts until one is replayed again.
    """

    def __init__(
        self, forward: Callable[..., Any], leaves: list[Any], tree: Any, weights: Sequence[Tensor]
    ) -> None:
        stand_ins = [_stand_in(leaf) for leaf in leaves]
        self._inputs = [each for each in stand_ins if isinstance(each, Tensor)]
        self._there = torch.cuda.CUDAGraph()
        self._back: torch.cuda.CUDAGraph | None = None
        args, kwargs = tree_unflatten(stand_ins, tree)
        with _uncached(), torch.cuda.graph(self._there):
            found = forward(*args, **kwargs)
        outputs, self._tree = tree_flatten(found)
        self._outputs = [each.detach() for each in outputs]
        self._turn, self._open = 0, set[int]()
        self._lent: list[tuple[Tensor, Tensor]] = []
        wanted = [each for each in (*self._inputs, *weights) if each.requires_grad]
        if torch.is_grad_enabled() and wanted:
            self._record_back(outputs, wanted, weights)

    @property
    def trains(self) -> bool:
        """Whether it has gradients of weights."""
        return bool(self._lent)

    def _record_back(
        self, outputs: Sequence[Tensor], wanted: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> None:
        self._given = [torch.zeros_like(each) for each in self._outputs]
        self._back = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._back, pool=self._there.pool()):
            made = torch.autograd.grad(outputs, wanted, self._given, allow_unused=True)
        found = iter(made)
        both = [*self._inputs, *weights]
        self._found = [next(found) if each.requires_grad else None for each in both]
        pairs = zip(weights, self._found[len(self._inputs) :], strict=True)
        self._lent = [(weight, place) for weight, place in pairs if place is not None]

    def __call__(self, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Any:
        if self._back is None:
            self._run(inputs)
            outputs = self._copies()
        else:
            outputs = _Replayed.apply(self, len(inputs), *inputs, *weights)
        return tree_unflatten(list(outputs), self._tree)

    def there(self, inputs: Sequence[Tensor]) -> tuple[int, tuple[Tensor, ...]]:
        """The number of this turn, whose gradient may be taken, and the outputs."""
        self._run(inputs)
        self._open.add(self._turn)
        return self._turn, self._copies()

    def _run(self, inputs: Sequence[Tensor]) -> None:
        for weight, place in self._lent:
            if weight.grad is not None and weight.grad.data_ptr() == place.data_ptr():
                weight.grad = weight.grad.clone()  # a sum that goes on
        with torch.no_grad():
            for stand_in, given in zip(self._inputs, inputs, strict=True):
                stand_in.copy_(given)
        self._there.replay()
        self._turn += 1

    def _copies(self) -> tuple[Tensor, ...]:
        return tuple(each.clone() for each in self._outputs)

    def back(
        self, turn: int, inputs: Sequence[Tensor], given: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Gradients of inputs and weights; what has been overwritten since is computed again.

        Those of weights are not copied, 3 GB in Stable Diffusion, unless another turn will follow.
        """
        if turn != self._turn:
            self._run(inputs)
        self._turn += 1  # a gradient overwrites what it needs
        self._open.discard(turn)
        for place, gradient in zip(self._given, given, strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)
        assert self._back is not None
        self._back.replay()
        lent = len(inputs) if not self._open else len(self._found)
        return [
            found if found is None else found.clone() if number < lent else found.detach()
            for number, found in enumerate(self._found)
        ]


class _Replayed(torch.autograd.Function):
    """A recording as an operator that has a gradient."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, count: int, *given: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.recording, ctx.count = recording, count
        ctx.save_for_backward(*given)
        ctx.turn, outputs = recording.there(given[:count])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        inputs = ctx.saved_tensors[: ctx.count]
        return None, None, *ctx.recording.back(ctx.turn, inputs, gradients)


@contextmanager
def launching() -> Iterator[None]:
    """Kernels are launched one by one inside."""
    token = _launching.set(True)
    try:
        yield
    finally:
        _launching.reset(token)


def _is_watched(network: torch.nn.Module) -> bool:
    """Whether hooks want to see what goes on inside."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def _can_replay(inputs: Sequence[Tensor]) -> bool:
    """Whether inputs are on a GPU, and nobody else records."""
    return all(each.is_cuda for each in inputs) and not torch.cuda.is_current_stream_capturing()


def has_room() -> bool:
    """Whether the GPU has room for recordings.

    What work takes beside what stays is in memory twice then: for recordings, and for the rest.
    Memory that torch keeps counts as taken, since earlier recordings may hold it.
    """
    now, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    return 2 * (most - now) < torch.cuda.mem_get_info()[0]


def _may_record() -> bool:
    """Whether a recording can be made here and now: not within a gradient, which computes again."""
    return threading.current_thread() is threading.main_thread() and has_room()


def _kind(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.requires_grad
    return leaf


def _place(weight: Tensor) -> Hashable:
    return weight.data_ptr(), weight.requires_grad


def _mode() -> tuple[Hashable, ...]:
    cast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    return cast, torch.is_grad_enabled()


def _stand_in(leaf: Any) -> Any:
    """Memory that inputs are copied to."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _uncached() -> torch.autocast:
    """Autocast as it is here, whose casts end with a recording."""
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    return torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)
