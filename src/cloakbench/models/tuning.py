"""The one fine-tuning loop body, for trainers and for the surrogates of protections."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cloakbench.errors import CloakBenchError
from cloakbench.models.base import DiffusionModel, Latents, Text
from cloakbench.models.gradients import NarrowGradients, clip
from cloakbench.running.jobs import Draw


@dataclass(frozen=True)
class Prior:
    """Class images for prior preservation (DreamBooth, Ruiz et al. 2023, section 3.2)."""

    latents: Latents
    prompt: str
    weight: float = 1.0


@dataclass
class FineTuner:
    """DreamBooth's training step with an AdamW that keeps its moments between calls.

    model: its thawed parameters (see `DiffusionModel.thaw`) are trained, whatever they are: all of
        the denoiser and text encoder, or LoRA factors.
    batch_size: instance images per step, and as many class images.
    eight_bit: keep moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861).
    """

    model: DiffusionModel
    prompt: str
    prior: Prior | None
    learning_rate: float
    batch_size: int = 1
    weight_decay: float = 1e-2
    shuffled: bool = True
    eight_bit: bool = False
    _text: Text | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.parameters = self.model.trainable()
        self._failed = torch.zeros((), dtype=torch.bool, device=self.model.device)
        self.optimiser = self.fresh_optimiser()

    def fresh_optimiser(self) -> torch.optim.Optimizer:
        """An AdamW over the thawed parameters that remembers nothing.

        Fused, since a loop over the operators took a quarter of the miniature's training step.
        """
        if self.eight_bit:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(self.parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.AdamW(
            self.parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )

    @cached_property
    def _narrow(self) -> NarrowGradients:
        return NarrowGradients(self.model.networks, self.parameters)

    def forget(self) -> None:
        """Go on with an optimiser that is new; the moments' memory is free."""
        self.optimiser = self.fresh_optimiser()

    def send_moments(self, device: str) -> None:
        """Move the optimiser's moments to a device."""
        for state in self.optimiser.state.values():
            for name, moment in state.items():
                state[name] = moment.to(device)

    def step(self, instance: Latents, index: int, draw: Draw) -> None:
        """Train once on the `index`-th batch of the instance images (and of the class images)."""
        rng = draw("train", index)
        latents = self.model.draw(instance[self._pick(len(instance), index, draw)], rng)
        if self.prior is not None:
            stored = self.prior.latents
            chosen = stored[self._pick(len(stored), index, draw, "class")]
            latents = torch.cat([latents, self.model.draw(chosen, rng)])
        losses = self.model.denoising_loss(latents, self._embed(), rng)
        loss = losses[: self.batch_size].mean()
        if self.prior is not None:
            loss = loss + self.prior.weight * losses[self.batch_size :].mean()
        self.descend([loss])

    def descend(self, losses: Iterable[Tensor]) -> None:
        """One step of the optimiser down a sum of losses, its gradient clipped to norm 1.

        losses: may be made one after another, so that the activations of one are there at a time.
        """
        casts, stay = self.model.casts, any(each.trains for each in self.model.replays)
        with self._narrow.kept() if casts and not stay else nullcontext():
            for loss in losses:
                loss.backward()
                self._failed |= ~torch.isfinite(loss.detach())
        if casts:
            self._narrow.descend(self.optimiser, 1.0)
            return
        clip(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def check(self) -> None:
        """Raise if any loss so far was not finite; kept apart since it waits for the device.

        Raises:
            CloakBenchError: training diverged.
        """
        if self._failed.item():
            raise CloakBenchError(
                f"the training loss became NaN or infinite. Lower learning_rate "
                f"({self.learning_rate:g}); finished results are kept."
            )

    def state_dict(self) -> dict[str, Any]:
        weights = {str(i): p.detach() for i, p in enumerate(self.parameters)}
        return {
            "weights": weights,
            "optimiser": self.optimiser.state_dict(),
            "failed": self._failed,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(state["weights"][str(i)])
        self.optimiser.load_state_dict(state["optimiser"])
        self._failed.copy_(state["failed"])

    def _embed(self) -> Text:
        """Text embeddings of a batch; computed once if the text encoder is not trained."""
        if self._text is not None:
            return self._text
        prompts = [self.prompt] + ([self.prior.prompt] if self.prior else [])
        text = self.model.embed(prompts).repeated(self.batch_size)
        if not text.trained:
            self._text = text
        return text

    def _pick(self, count: int, index: int, draw: Draw, *what: str) -> list[int]:
        """The `index`-th batch of an endless sequence of (shuffled) passes over `count` images."""
        positions = range(index * self.batch_size, (index + 1) * self.batch_size)
        if not self.shuffled:
            return [position % count for position in positions]
        passes = {
            number: torch.randperm(count, generator=draw("order", *what, number))
            for number in {position // count for position in positions}
        }
        return [int(passes[position // count][position % count]) for position in positions]
