"""Recordings of networks: the numbers of a recording are those of a launched network.

There is no GPU here. In the place of a CUDA graph stands a tape of the operators that were
recorded, which computes them again into the same memory, and spoils what shares it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cloakbench.models import base, replay
from cloakbench.models.device import deterministic
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.models.replay import Replay
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tuning import FineTuner
from cloakbench.running.jobs import BY_HAND


class Tape(TorchDispatchMode):
    """A CUDA graph of operators on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, Any]] = []
        self.sharing: list[Tape] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.operators.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        self.replays += 1
        for tape in self.sharing:
            tape.spoil()
        for func, args, kwargs, found in self.operators:
            again = func(*args, **kwargs)
            for place, value in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)

    def pool(self) -> Tape:
        """The memory, which another graph may share."""
        return self

    def spoil(self) -> None:
        """Write over what was made anew, as a graph in the same memory may."""
        for func, _, _, found in self.operators:
            if not func.is_view and not func._schema.is_mutable:
                for made in tree_leaves(found):
                    if made is not None and made.is_floating_point():
                        made.fill_(torch.nan)


@contextmanager
def _recorded(tape: Tape, pool: Tape | None = None) -> Iterator[None]:
    if pool is not None:
        pool.sharing.append(tape)
    with tape:
        yield


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """The recordings that were made, on a machine that can make them."""
    made: list[Tape] = []

    def make() -> Tape:
        made.append(Tape())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", _recorded)
    monkeypatch.setattr(Replay, "fails", False)
    monkeypatch.setattr(replay, "_can_replay", lambda inputs: True)
    monkeypatch.setattr(replay, "has_room", lambda: True)
    monkeypatch.setattr(base, "has_room", lambda: True)
    return made


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers).double()


def test_recordings_give_what_the_network_gives(tapes: list[Tape]) -> None:
    plain, replayed = network(), network()
    replayed.forward = Replay(replayed)
    for seed in range(5):
        given = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)).double()
        mine, yours = given.clone().requires_grad_(), given.clone().requires_grad_()
        one, other = plain(mine), replayed(yours)
        assert torch.equal(one, other)
        one.square().sum().backward()
        other.square().sum().backward()
        assert torch.equal(mine.grad, yours.grad)
        for a, b in zip(plain.parameters(), replayed.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)  # summed over the steps
    there, back = tapes
    assert there.replays == back.replays == 4


def test_a_gradient_taken_late_is_that_of_its_own_call(tapes: list[Tape]) -> None:
    plain, replayed = network(), network()
    replayed.forward = Replay(replayed)
    given = [torch.full((2, 3), float(k)).double().requires_grad_() for k in range(4)]
    wanted = torch.autograd.grad(sum((plain(each) ** 2).sum() for each in given), given)
    found = torch.autograd.grad(sum((replayed(each) ** 2).sum() for each in given), given)
    assert len(tapes) == 2
    assert all(map(torch.equal, wanted, found))
    kept = (replayed(given[0]) ** 2).sum()
    first = torch.autograd.grad(kept, given[0], retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(kept, given[0])[0])


@pytest.mark.parametrize("together", [True, False])
def test_gradients_of_weights_are_summed_over_calls(tapes: list[Tape], together: bool) -> None:
    """Of one loss of two calls, and of two losses one after another."""
    plain, replayed = network(), network()
    replayed.forward = Replay(replayed)
    for step in range(4):
        given = [torch.full((2, 3), step + k / 3).double() for k in range(2)]
        for each in (plain, replayed):
            each.zero_grad()
            if together:
                sum((each(one) ** 2).sum() for one in given).backward()
            else:
                [(each(one) ** 2).sum().backward() for one in given]
        for a, b in zip(plain.parameters(), replayed.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
    assert len(tapes) == 2


def test_recordings_end_with_their_network(tapes: list[Tape]) -> None:
    replayed = network()
    replayed.forward = Replay(replayed)
    [replayed(torch.ones(2, 3).double()).sum().backward() for _ in range(3)]
    alive = weakref.ref(replayed[0])
    gc.disable()
    try:
        del replayed
        assert alive() is None
    finally:
        gc.enable()


def test_another_way_of_calling_is_another_recording(tapes: list[Tape]) -> None:
    replayed = network()
    replayed.forward = Replay(replayed)
    given = torch.ones(2, 3).double()
    with torch.no_grad():
        [replayed(given) for _ in range(2)]
        assert len(tapes) == 1
        replayed(torch.ones(5, 3).double())
        replayed(torch.ones(3, 2).double().T)
        replayed[0].weight.data = replayed[0].weight.data.clone() + 1
        assert torch.equal(replayed(given), torch.nn.Sequential.forward(replayed, given))
    assert len(tapes) == 1


def test_hooks_see_every_call(tapes: list[Tape]) -> None:
    replayed = network()
    replayed.forward = Replay(replayed)
    given = torch.ones(2, 3).double()
    [replayed(given) for _ in range(3)]
    seen: list[Tensor] = []
    hook = replayed[1].register_forward_hook(lambda _layer, _inputs, found: seen.append(found))
    [replayed(given + k) for k in range(3)]
    hook.remove()
    assert len({float(found.detach().sum()) for found in seen}) == 3
    assert torch.equal(replayed(given), network()(given))


def test_a_kernel_that_cannot_be_recorded_is_launched(
    tapes: list[Tape], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def refused(tape: Tape, pool: Tape | None = None) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    plain, replayed = network(), network()
    replayed.forward = Replay(replayed)
    given = torch.ones(2, 3).double()
    for _ in range(4):
        assert torch.equal(plain(given), replayed(given))
    assert len(tapes) == 1
    assert "not permitted" in caplog.text


@pytest.mark.parametrize(("most", "room"), [(30, True), (50, False)])
def test_a_recording_wants_room_for_its_work_twice(
    monkeypatch: pytest.MonkeyPatch, most: int, room: bool
) -> None:
    """Of a card of 80, 20 stay in use and 30 are kept; 20 are other processes'."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: most)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 80))
    assert replay.has_room() == room


@pytest.mark.parametrize(("gigabytes", "spared"), [(24, True), (80, False)])
def test_a_large_card_keeps_activations(
    tiny_model: ModelSpec, monkeypatch: pytest.MonkeyPatch, gigabytes: int, spared: bool
) -> None:
    """It has room for them, and computing them again takes time."""
    card = SimpleNamespace(total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    made: Any = load_model(tiny_model)
    parts = {name: getattr(made, name) for name in ("vae", "tokenizer", "scheduler", "unet")}
    spec = tiny_model.model_copy(update={"precision": "bf16"})
    model = StableDiffusion(spec, **parts, device="cuda")
    assert model.unet.is_gradient_checkpointing == spared
    model.device = "cpu"  # as a member of an ensemble that waits in the host's memory
    model.settle()
    model.device = "cuda"
    model.settle()
    assert model.unet.is_gradient_checkpointing == spared


def train(model: Any, steps: int) -> list[Tensor]:
    model.thaw("all", text_encoder=True)
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    latents = model.posterior_once(photos)
    tuner = FineTuner(model, "a photo of sks person", None, 1e-3)
    for step in range(steps):
        tuner.step(latents, step, BY_HAND.rng)
    return [parameter.detach().clone() for parameter in tuner.parameters]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_the_same(tiny_model: ModelSpec, precision: str, tapes: list[Tape]) -> None:
    spec = tiny_model.model_copy(update={"precision": precision})
    launched = train(load_model(spec), 5)
    model = load_model(spec)
    encoder = model.text_encoder.encoder
    model.replays = [replay.replayed(network) for network in (model.unet, encoder)]
    assert all(map(torch.equal, launched, train(model, 5)))
    assert [tape.replays for tape in tapes] == [4, 4, 4, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_the_same_on_a_gpu(tiny_model: ModelSpec, precision: str) -> None:
    spec = tiny_model.model_copy(update={"precision": precision})
    with replay.launching():
        launched = deterministic(lambda: train(load_model(spec, "cuda"), 5))
    model = load_model(spec, "cuda")
    found = deterministic(lambda: train(model, 5))
    assert all(each.trains for each in model.replays[1:])
    assert all(map(torch.equal, launched, found))
