"""The one fine-tuning loop body, for trainers and for the surrogates of protections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from cloakbench.diffusion import LatentDiffusion, Latents
from cloakbench.errors import CloakBenchError
from cloakbench.jobs import Draw


@dataclass(frozen=True)
class Prior:
    """Class images for prior preservation (DreamBooth, Ruiz et al. 2023, section 3.2)."""

    latents: Latents
    prompt: str
    weight: float = 1.0


@dataclass
class FineTuner:
    """DreamBooth's training step with an AdamW that keeps its moments between calls.

    model: its thawed parameters (see `thaw`) are trained, whatever they are: all of the U-Net and
        text encoder, or LoRA factors.
    batch_size: instance images per step, and as many class images.
    """

    model: LatentDiffusion
    prompt: str
    prior: Prior | None
    learning_rate: float
    batch_size: int = 1
    weight_decay: float = 1e-2
    shuffled: bool = True
    _text: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.parameters = trainable(self.model)
        self._failed = torch.zeros((), dtype=torch.bool, device=self.model.device)
        self.optimiser = self.fresh_optimiser()

    def fresh_optimiser(self) -> torch.optim.AdamW:
        """An AdamW over the thawed parameters that remembers nothing.

        Fused, since a loop over the operators took a quarter of the miniature's training step.
        """
        return torch.optim.AdamW(
            self.parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )

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
        self.descend(loss)

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser down a loss, its gradient clipped to norm 1."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._failed |= ~torch.isfinite(loss.detach())

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

    def _embed(self) -> Tensor:
        """Text embeddings of a batch; computed once if the text encoder is not trained."""
        if self._text is not None:
            return self._text
        prompts = [self.prompt] + ([self.prior.prompt] if self.prior else [])
        text = self.model.embed(prompts).repeat_interleave(self.batch_size, dim=0)
        if not text.requires_grad:
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


def trainable(model: LatentDiffusion) -> list[torch.nn.Parameter]:
    """The thawed parameters of a model, in a fixed order."""
    networks = (model.unet, model.text_encoder)
    return [p for network in networks for p in network.parameters() if p.requires_grad]


def thaw(model: LatentDiffusion, *, text_encoder: bool = True) -> None:
    """Make the U-Net, and the text encoder if wanted, trainable."""
    model.unet.requires_grad_(True)
    model.text_encoder.requires_grad_(text_encoder)


def thaw_cross_attention(model: LatentDiffusion) -> None:
    """Make the keys and values of the U-Net's cross-attention trainable, and nothing else.

    Source: Custom Diffusion, Kumari et al. 2023, section 3.1.
    """
    model.text_encoder.requires_grad_(False)
    for name, parameter in model.unet.named_parameters():
        parameter.requires_grad_("attn2.to_k." in name or "attn2.to_v." in name)


def add_lora(
    model: LatentDiffusion, rank: int, rng: Generator, *, text_encoder: bool = False
) -> None:
    """Add float32 LoRA factors to the attention blocks and thaw only these (peft).

    peft draws the factors' start from torch's global generator, which is seeded from `rng` for
    the purpose and put back.
    Source: Hu et al. 2022; targets as in Anti-DreamBooth's LoRA scripts (recipes 1.5, 3.1).
    """
    from peft import LoraConfig

    def adapter(*targets: str) -> LoraConfig:
        return LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
        )

    model.unet.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(rng.initial_seed())
        model.unet.add_adapter(adapter("to_q", "to_k", "to_v", "to_out.0"))
        if text_encoder:
            model.text_encoder.add_adapter(adapter("q_proj", "k_proj", "v_proj", "out_proj"))


@contextmanager
def frozen(model: LatentDiffusion) -> Iterator[None]:
    """No parameter needs a gradient inside; the thawed ones are thawed again afterwards."""
    parameters = trainable(model)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
