"""Gradients that take less memory: of activations, and of a model that trains under autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

from cloakbench.models.base import CAST
from cloakbench.models.replay import launching

T = TypeVar("T")

CHUNK = 2**26  # weights whose gradients are float32 at a time


def recomputed(function: Callable[..., T], *given: Any) -> T:
    """`function(*given)`, which a gradient computes again instead of keeping its activations.

    It draws from generators that it makes itself, if it draws. Chen et al. 2016, arXiv 1604.06174.
    """
    if not torch.is_grad_enabled():
        return function(*given)

    def run(*given: Any) -> T:
        with launching():  # or the second time might keep other activations than the first
            return function(*given)

    found: T = checkpoint(run, *given, use_reentrant=False, preserve_rng_state=False)
    return found


class NarrowGradients:
    """Gradients of float32 weights, those in bfloat16 that autocast hands back in bfloat16.

    Autocast casts the weights of linear layers and convolutions; what comes back for them is a
    bfloat16 number in a float32 tensor, which bfloat16 holds without loss. Other gradients, and
    sums of several, stay float32.
    """

    def __init__(self, networks: tuple[torch.nn.Module, ...], parameters: Sequence[Tensor]) -> None:
        cast = {
            parameter
            for network in networks
            for layer in network.modules()
            if isinstance(layer, CAST)
            for parameter in layer.parameters(recurse=False)
        }
        self._narrow = [parameter for parameter in parameters if parameter in cast]
        self._chunks = list(_chunks(parameters))
        self._kept: dict[Tensor, Tensor] = {}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Gradients that become known inside are kept here, and not with their weights."""
        with ExitStack() as stack:
            for parameter in self._narrow:
                handle = parameter.register_post_accumulate_grad_hook(self._keep)
                stack.callback(handle.remove)
            yield

    def _keep(self, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        earlier = self._kept.get(parameter)
        self._kept[parameter] = gradient.bfloat16() if earlier is None else earlier + gradient

    def descend(self, optimiser: torch.optim.Optimizer, limit: float) -> None:
        """A step of the optimiser with the whole gradient clipped to a norm, chunk by chunk.

        At once if nothing was kept here: the numbers are the same.
        """
        norms = [torch._foreach_norm(self._found(chunk)) for chunk in self._chunks]
        norm = vector_norm(torch.stack([*chain.from_iterable(norms)]))
        if not self._kept:
            parameters = [parameter for chunk in self._chunks for parameter in chunk]
            clip_grads_with_norm_(parameters, limit, norm)
            optimiser.step()
            return optimiser.zero_grad(set_to_none=True)
        waiting = self._aside()
        for chunk in self._chunks:
            for parameter in chunk:
                if parameter in waiting:
                    parameter.grad = waiting.pop(parameter).float()
            clip_grads_with_norm_(chunk, limit, norm)
            optimiser.step()
            for parameter in chunk:
                parameter.grad = None
        return None

    def _found(self, chunk: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of weights that have one, in float32."""
        found = (self._kept.get(parameter, parameter.grad) for parameter in chunk)
        return [each.float() for each in found if each is not None]

    def _aside(self) -> dict[Tensor, Tensor]:
        """All gradients, away from the weights, so that the optimiser passes these over."""
        wide = {p: p.grad for chunk in self._chunks for p in chunk if p.grad is not None}
        for parameter in wide:
            parameter.grad = None
        kept, self._kept = self._kept, {}
        return kept | wide


def clip(parameters: Sequence[Tensor], limit: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, the same to the last bit.

    On a CPU, which nothing has to wait for, gradients of a lesser norm are not multiplied by 1.
    """
    gradients = [each.grad for each in parameters if each.grad is not None]
    norm = get_total_norm(gradients)
    if norm.device.type != "cpu" or not norm + 1e-6 <= limit:  # by which torch divides; or NaN
        clip_grads_with_norm_(parameters, limit, norm)


def _chunks(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for parameter in parameters:
        chunk.append(parameter)
        if sum(each.numel() for each in chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
