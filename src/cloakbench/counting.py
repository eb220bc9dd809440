"""Counting what a job takes, on tensors without data: FLOPs, memory, operators, traffic, disk.

Methods run as they are, on a model whose weights are meta tensors, which stand for a GPU's. Of each
of a job's loops two steps run; the second stands for all that follow. Autocast is done as CUDA does
it, and attention as its fused kernels do.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from cloakbench.models import architectures
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.spec import ModelSpec
from cloakbench.protect import ensemble, metacloak
from cloakbench.running import jobs
from cloakbench.running.jobs import DISK, Job, Stateful
from cloakbench.weightless import weightless

GPU = "meta"
SMALL = 2**20  # what comes to the host in fewer bytes is zeros there, for code that looks at it
SPEED = 2e14  # FLOP/s that an H100 sustains of its peak of 1e15 in bf16

aten = torch.ops.aten
_COPIES = {aten.clone.default, aten._to_copy.default}
_FREE = {aten.empty.memory_format, aten._local_scalar_dense.default, aten._unsafe_view.default}


@dataclass
class Counts:
    """What a job takes; memory and traffic in bytes.

    single: of the FLOPs, those in float32. parts: of `gpu`, which is the device's peak; `host` is
    that of the tensors in the host's memory. checkpoint: the largest that is saved if the job is
    interrupted. disk: written by one that is not. moved: between host and device. operators:
    dispatched ones that are no views, about one kernel each.
    """

    flops: float = 0.0
    single: float = 0.0
    operators: float = 0.0
    moved: float = 0.0
    disk: float = 0.0
    gpu: int = 0
    host: int = 0
    checkpoint: int = 0
    parts: Counter[str] = field(default_factory=Counter)

    @property
    def seconds(self) -> float:
        """The time of an H100 for it, copies and launches aside."""
        return self.flops / SPEED + self.disk / DISK

    def restart(self) -> None:
        """Forget all but what memory is in use."""
        self.flops = self.single = self.operators = self.moved = self.disk = 0.0
        self.gpu = self.host = 0

    def tally(self) -> tuple[float, ...]:
        """What grows with every step: FLOPs, those in float32, operators, bytes moved."""
        return self.flops, self.single, self.operators, self.moved

    def since(self, before: tuple[float, ...]) -> tuple[float, ...]:
        """What a step took."""
        return tuple(new - old for new, old in zip(self.tally(), before, strict=True))

    def stretch(self, run: Callable[[int], Any], steps: int, times: float = 1) -> Any:
        """Run what takes so many steps with two and with three of them; the others take as much as
        the third did. times: how often it runs, counted.
        """
        tallies, made = [], None
        for few in (2, 3):
            before = self.tally()
            made = run(few)
            tallies.append(self.since(before))
        self.add(
            tuple(
                times * (two + (three - two) * (steps - 2)) - two - three
                for two, three in zip(*tallies, strict=True)
            )
        )
        return made

    def add(self, step: tuple[float, ...]) -> None:
        """Another step that takes as much."""
        now = (sum(pair) for pair in zip(self.tally(), step, strict=True))
        self.flops, self.single, self.operators, self.moved = now


def _is_looked_at(tensor: Tensor) -> bool:
    """Whether code may look at what comes to the host: little, and images."""
    return tensor.nbytes < SMALL or (tensor.dim() == 4 and tensor.shape[1] == 3)


class Meter(TorchDispatchMode):
    """Counts what is dispatched inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self._live: dict[int, tuple[str, str, int]] = {}  # of a storage: device, part, bytes
        self._now: dict[str, Counter[str]] = {GPU: Counter(), "cpu": Counter()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = self._run(func, args, kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == GPU for tensor in (*given, *made)):
            self._count(func, args, kwargs, out)
        copied = func in _COPIES and self._part(given[0]) == "weights"
        for tensor in made:
            self.see(tensor, "copies" if copied else "activations")
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator, also where it would look at data that is not there."""
        if func is aten._local_scalar_dense.default and args[0].device.type == GPU:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is aten._fused_adamw_.default:
            return None
        if func is aten.copy_.default and args[0].device != args[1].device:
            self.counts.moved += args[1].nbytes
            return args[0]
        if func is aten._to_copy.default and (device := kwargs.get("device")) is not None:
            if device.type != args[0].device.type:
                self.counts.moved += args[0].nbytes
            if device.type == "cpu" and args[0].device.type == GPU:
                make = torch.zeros if _is_looked_at(args[0]) else torch.empty  # takes no memory
                return make(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        between = func is aten._to_copy.default and out.device != args[0].device
        if func in _FREE or func.is_view or between:
            return
        self.counts.operators += 1
        if formula := flop_registry.get(func.overloadpacket):
            flops = formula(*args, **kwargs, out_val=out)
            self.counts.flops += flops
            self.counts.single += flops * (args[0].dtype == torch.float32)

    def see(self, tensor: Tensor, part: str) -> None:
        """Count a tensor's memory, as a part of what is there, for as long as it lives."""
        storage = tensor.untyped_storage()
        key, device, size = storage._cdata, tensor.device.type, storage.nbytes()
        if key in self._live:
            return
        weakref.finalize(storage, self._forget, key)
        self._live[key] = device, part, size
        self._now[device][part] += size
        now = sum(self._now[device].values())
        if device == "cpu":
            self.counts.host = max(self.counts.host, now)
        elif now > self.counts.gpu:
            self.counts.gpu, self.counts.parts = now, +self._now[GPU]

    def name(self, tensor: Tensor, part: str) -> None:
        """Call a tensor's memory another part from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            device, old, size = self._live[key]
            self._now[device].subtract({old: size})
            self._now[device].update({part: size})
            self._live[key] = device, part, size

    def weights(self, network: nn.Module) -> None:
        """Know a network's weights."""
        for parameter in network.parameters():
            self.see(parameter, "weights")
            self.name(parameter, "weights")

    def watch(self, model: Weightless) -> None:
        """Know the model's weights, and their gradients from now on."""
        for network in model.networks:
            self.weights(network)
        for parameter in model._parameters():
            parameter.requires_grad_(True)  # without, torch takes no hook
            parameter.register_post_accumulate_grad_hook(
                lambda trained: self.name(trained.grad, "gradients")
            )
            parameter.requires_grad_(False)

    def moments(self, optimiser: Any, *_: Any) -> None:
        """Know an optimiser's state."""
        for state in optimiser.state.values():
            for tensor in state.values():
                self.name(tensor, "moments")

    def _part(self, tensor: Tensor) -> str | None:
        return self._live.get(tensor.untyped_storage()._cdata, (None, None))[1]

    def _forget(self, key: int) -> None:
        device, part, size = self._live.pop(key)
        self._now[device][part] -= size


class Autocast:
    """`torch.autocast` as it is on CUDA, for meta tensors, which have none."""

    inside: Autocast | None = None

    def __init__(self, device_type: str, dtype: torch.dtype, enabled: bool = True) -> None:
        self.dtype, self.enabled = dtype, enabled
        self.casts: dict[int, Tensor] = {}

    def __enter__(self) -> None:
        self._outer, Autocast.inside = Autocast.inside, self if self.enabled else None

    def __exit__(self, *_: object) -> None:
        Autocast.inside = self._outer
        self.casts.clear()

    def lowered(self, value: Any) -> Any:
        """A float32 tensor in the lower precision; thawed weights are cast once in a context."""
        if (
            not isinstance(value, Tensor)
            or value.dtype != torch.float32
            or value.device.type != GPU
        ):
            return value
        if not (value.requires_grad and value.is_leaf and torch.is_grad_enabled()):
            return value.to(self.dtype)
        if id(value) not in self.casts:
            self.casts[id(value)] = value.to(self.dtype)
        return self.casts[id(value)]

    def raised(self, value: Any) -> Any:
        """A tensor in float32."""
        low = isinstance(value, Tensor) and value.dtype == self.dtype
        return value.float() if low else value


_attention = functional.scaled_dot_product_attention
_LOWERED = {
    *(torch.conv2d, functional.linear, torch.matmul, torch.bmm, torch.baddbmm, torch.addmm),
    *(Tensor.matmul, Tensor.__matmul__, _attention),
}
_RAISED = {
    *(functional.group_norm, functional.layer_norm, functional.softmax, Tensor.softmax),
    *(torch.exp, Tensor.exp, torch.pow, Tensor.pow, Tensor.__pow__),
}


class Kernels(TorchFunctionMode):
    """What CUDA would run: casts inside of `Autocast`, and fused attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (autocast := Autocast.inside) is not None and func in _LOWERED | _RAISED:
            cast = autocast.lowered if func in _LOWERED else autocast.raised
            args, kwargs = map(cast, args), {key: cast(each) for key, each in kwargs.items()}
        if func is _attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    if attn_mask is not None or query.device.type != GPU:
        return _attention(query, key, value, attn_mask, **options)
    causal = options.get("is_causal", False)
    if query.dtype == torch.float32 or query.shape[-1] > 256:
        fused = aten._scaled_dot_product_efficient_attention
        return fused(query, key, value, None, torch.is_grad_enabled(), is_causal=causal)[0]
    return aten._scaled_dot_product_flash_attention(query, key, value, is_causal=causal)[0]


class Weightless(StableDiffusion):
    """A model without data. on_large_card: whether the GPU that is meant is one."""

    on_large_card = False

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        device: str = "cpu",
        frugal: bool = False,
        *,
        vae_alone: bool = False,
        large: bool = False,
    ) -> Self:
        with torch.device(GPU):
            parts = architectures.parts(spec, vae_alone=vae_alone)
        model = cls(spec, **parts, device=device, frugal=frugal)
        for network in model.networks:
            network.to_empty(device=device)
        if frugal:
            for network in filter(None, (model.vae, model.unet)):
                network.enable_gradient_checkpointing(model.again)
        model.on_large_card = large
        model.settle()
        return model

    @property
    def again(self) -> Callable[..., Any]:
        return partial(_checkpoint, self)


class Again:
    """A context for computing again, once for every gradient through the same activations."""

    def __init__(self, model: Weightless) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(Kernels())
        self._stack.enter_context(self._model.autocast())

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _checkpoint(model: Weightless, *arguments: Any, **options: Any) -> Any:
    """Gradient checkpointing that computes again under the same autocast, as CUDA's does."""
    contexts = lambda: (nullcontext(), Again(model))  # noqa: E731
    return checkpoint(*arguments, **options, use_reentrant=False, context_fn=contexts)


class AdamW8bit(torch.optim.Optimizer):
    """The size of bitsandbytes' optimiser, which has no kernels for tensors without data.

    A moment is a byte, and a block of 256 has a float32 scale; small tensors keep float32.
    """

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, settings)

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if not self.state[parameter]:
                make = torch.zeros_like if parameter.numel() < 4096 else self._quantised
                self.state[parameter] = {name: make(parameter) for name in ("first", "second")}

    def _quantised(self, parameter: Tensor) -> Tensor:
        size = parameter.numel()
        return torch.zeros(size + size // 64, dtype=torch.uint8, device=parameter.device)


class Disk:
    """Files of which only the sizes are known."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.files: dict[Path, Any] = {}

    def store(self, path: Path, value: Any) -> None:
        leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        self.counts.disk += sum(leaf.nbytes for leaf in leaves)
        with _disable_current_modes():  # what is on disk takes no memory
            self.files[path] = tree_map(_without_values, value)

    def load(self, path: Path, *, mmap: bool = False) -> Any:
        return self.files[path]


def _without_values(leaf: Any) -> Any:
    return torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf


@dataclass(frozen=True)
class CountedJob(Job):
    """A job of whose loops two steps run, and all are counted."""

    counts: Counts = field(default_factory=Counts)

    def steps(self, name: str, total: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        each: tuple[float, ...] = ()
        for step in super().steps(name, total, state):
            if step >= 2:
                self.counts.add(each)
                continue
            before = self.counts.tally()
            yield step
            each = self.counts.since(before)
            self.counts.checkpoint = max(self.counts.checkpoint, jobs.size_of(state))


@contextmanager
def _pretending(meter: Meter, load: Callable[..., Weightless]) -> Iterator[None]:
    """Run on meta tensors what looks at its device, its disk or the time."""
    disk = Disk(meter.counts)
    clock = SimpleNamespace(monotonic=lambda: meter.counts.seconds)
    hook = register_optimizer_step_post_hook(meter.moments)
    optimisers = SimpleNamespace(AdamW8bit=AdamW8bit)
    torch.__future__.set_swap_module_params_on_conversion(True)  # a moved weight stays the same
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    with ExitStack() as stack:
        stack.callback(hook.remove)
        stack.enter_context(patch("torch.autocast", Autocast))
        stack.enter_context(patch(fused, lambda: [GPU]))
        stack.enter_context(patch.dict(sys.modules, {"bitsandbytes.optim": optimisers}))
        stack.enter_context(patch("cloakbench.models.loading.load_model", load))
        stack.enter_context(patch.object(jobs, "time", clock))
        stack.enter_context(patch.object(ensemble, "is_same", lambda a, b: a.path == b.path))
        stack.enter_context(weightless(meter.counts.stretch, meter.weights, GPU))
        for module in (jobs, metacloak):
            stack.enter_context(patch.multiple(module, store=disk.store, load=disk.load))
        yield


def count(
    spec: ModelSpec | None,
    work: Callable[[Any, CountedJob], Any],
    *,
    frugal: bool = False,
    vae_alone: bool = False,
    large: bool = False,
) -> Counts:
    """What work with a model, with its VAE alone, or with none, takes.

    spec: of Stable Diffusion's family; see `architectures.parts`. work: is given the model, or None
        without one, and a job, and does what a stage would. large: on a card whose memory need not
        be spared.
    """
    meter, load = Meter(), partial(Weightless.load, large=large)
    with TemporaryDirectory() as folder, _pretending(meter, load), meter, Kernels():
        model = spec and load(spec, GPU, frugal, vae_alone=vae_alone)
        if model:
            meter.watch(model)
        work(model, CountedJob(0, GPU, Path(folder), counts=meter.counts))
    return meter.counts
