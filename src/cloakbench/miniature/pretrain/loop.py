"""The training loop that all networks share: AdamW, warm-up and decay, EMA, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cloakbench.errors import CloakBenchError
from cloakbench.running.jobs import Job

WARM_UP = 200  # steps
DECAY = 0.25  # last share of the steps, over which the learning rate falls to zero


class Learner:
    """A network with its optimiser and an exponential moving average of its weights.

    origin: says which weights the training began from, and survives being killed, as the weights
        in the work folder do not: batches drawn by it are other ones when a training goes on.
    rivals: parts whose gradients are clipped apart, so that none drowns another; default: together.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        steps: int,
        ema: float,
        origin: str,
        rivals: Sequence[nn.Module] = (),
    ) -> None:
        norms_in_float32(network)
        self.network = network
        self.steps = steps
        self.rate = learning_rate
        self.ema = ema
        self.origin = origin
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.clipped = rivals or (network,)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=learning_rate, weight_decay=1e-2, betas=(0.9, 0.99)
        )

    def learn(self, loss: Tensor, step: int) -> None:
        """One update; the averages forget faster early on."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * schedule(step, self.steps)
        loss.backward()
        for part in self.clipped:
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(self.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - keep)

    def averaged(self) -> dict[str, Tensor]:
        """The network's state with averaged weights."""
        state = dict(self.network.state_dict())
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        return state | dict(zip(names, self.averages, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "averages": list(self.averages),
            "optimiser": self.optimiser.state_dict(),
            "origin": self.origin,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.copy_(stored)
        self.optimiser.load_state_dict(state["optimiser"])
        self.origin = state["origin"]


def norms_in_float32(network: nn.Module) -> None:
    """Let group norms see float32 under autocast: on a CPU, bfloat16 slows their backward pass."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(),))


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, linear decay."""
    left = (steps - step) / max(1, DECAY * steps)
    return min(1.0, (step + 1) / WARM_UP, left)


def train(
    name: str,
    learner: Learner,
    loss: Callable[[int], Tensor],
    job: Job,
    report: Callable[[str], None],
    *,
    after: Callable[[], None] = lambda: None,
    every: int = 500,
) -> None:
    """Minimise `loss(step)`; print its mean and call `after` every so many steps.

    Raises:
        CloakBenchError: the loss became NaN.
    """
    total, seen = torch.zeros((), device=job.device), 0
    learner.network.train()
    for step in job.steps(name, learner.steps, {"learner": learner}):
        value = loss(step)
        learner.learn(value, step)
        total += value.detach()
        seen += 1
        if (step + 1) % every == 0:
            mean = total.item() / seen
            if mean != mean:
                raise CloakBenchError(f"{name}: the loss became NaN. Lower its learning rate.")
            report(f"{name}: step {step + 1} of {learner.steps}, loss {mean:.4f}")
            total, seen = total.zero_(), 0
            after()
    learner.network.eval()
