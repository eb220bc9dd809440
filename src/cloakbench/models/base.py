"""DiffusionModel: what methods know of a latent diffusion model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from cloakbench.models.replay import Replay, has_room, launching

if TYPE_CHECKING:
    from cloakbench.models.spec import ModelSpec

CAST = (torch.nn.Linear, torch.nn.Conv2d)
"""Layers whose weights autocast casts."""

Draws = Generator | Sequence[Generator]
"""One generator for all images of a batch, or one for each, whose draws no other image changes."""

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Latents:
    """The VAE's posterior of n images, unscaled: two tensors of shape (n, c, h/8, w/8)."""

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: slice | list[int]) -> Latents:
        if isinstance(index, list):
            chosen = sent(torch.tensor(index), self.mean.device)
            return Latents(self.mean[chosen], self.std[chosen])
        return Latents(self.mean[index], self.std[index])


@dataclass(frozen=True)
class Text:
    """What a denoiser is told of n images: tensors of n rows each, as many as its family wants.

    embeddings: of the tokens, (n, tokens, width). pooled: what a family wants beside them.
    """

    embeddings: Tensor
    pooled: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice) -> Text:
        return Text(self.embeddings[rows], tuple(each[rows] for each in self.pooled))

    @property
    def trained(self) -> bool:
        """Whether a gradient flows into the text encoder."""
        return any(each.requires_grad for each in (self.embeddings, *self.pooled))

    def repeated(self, count: int) -> Text:
        """Every row `count` times in a row."""
        first, *others = (
            each.repeat_interleave(count, dim=0) for each in (self.embeddings, *self.pooled)
        )
        return Text(first, tuple(others))


class DiffusionModel(ABC):
    """A latent diffusion model: pixels [0, 1] outside, latents and noise inside.

    All weights are frozen and float32; a method thaws what it trains. Random draws come from CPU
    generators, so that noise does not depend on the device. A family writes the abstract verbs;
    tests/test_families.py says what they promise.

    frugal: compute activations again instead of storing them (Chen et al. 2016, arXiv 1604.06174),
        which changes no bit of a gradient, and sample images one at a time, which may change one
        grey level of a sample.
    """

    spec: ModelSpec
    device: str
    frugal: bool

    def __init__(self) -> None:
        self.replays: list[Replay] = []  # on a GPU
        self._places: dict[Tensor, Tensor] = {}  # of float32 weights in bfloat16

    @classmethod
    @abstractmethod
    def load(cls, spec: ModelSpec, device: str, frugal: bool, *, vae_alone: bool = False) -> Self:
        """Load what personalisation needs, or the VAE; call `models.loading.load_model` instead."""

    @property
    @abstractmethod
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """All networks, the denoiser and the text encoders first, in a fixed order."""

    # Pixels and latents

    @abstractmethod
    def posterior(self, pixels: Tensor) -> Latents:
        """Encode pixels (n, 3, h, w) in [0, 1]; differentiable."""

    @torch.no_grad()
    def posterior_once(self, pixels: Tensor, batch_size: int = 8) -> Latents:
        """The posterior of images that do not change, in batches and without gradients."""
        with self.cast_once(), launching():
            parts = [self.posterior(batch) for batch in pixels.split(batch_size)]
        return Latents(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))

    @abstractmethod
    def scaled(self, latents: Tensor) -> Tensor:
        """The VAE's latents as the denoiser expects them."""

    def draw(self, latents: Latents, rng: Draws) -> Tensor:
        """One sample of the posterior, scaled as the denoiser expects it."""
        return self.scaled(latents.mean + latents.std * self._normal(latents.mean.shape, rng))

    def mode(self, latents: Latents) -> Tensor:
        """The most likely latents, the posterior's mean, scaled as the denoiser expects them."""
        return self.scaled(latents.mean)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to pixels (n, 3, h, w), clamped to [0, 1]; differentiable."""

    @abstractmethod
    def padded(self, pixels: Tensor) -> Tensor:
        """Pixels with their last row and column repeated until the VAE can halve the sides."""

    @abstractmethod
    def round_trip(self, pixels: Tensor) -> Tensor:
        """Pixels of any size through the VAE in its own precision; differentiable."""

    # Text

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Text:
        """Text of prompts, a row each; differentiable in the text encoder.

        Raises:
            CloakBenchError: a prompt has more tokens than the text encoder reads.
        """

    # Diffusion

    @property
    @abstractmethod
    def horizon(self) -> int:
        """How many timesteps there are: 0 is the least noise, horizon - 1 the most."""

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Scaled latents with as much noise as belongs to the timesteps (n,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to predict of noised latents: noise, velocity or flow."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor | int, text: Text) -> Tensor:
        """The denoiser's output, float32, in the shape of the latents."""

    def denoising_loss(
        self, latents: Tensor, text: Text, rng: Draws, timesteps: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the prediction, one float32 value per image.

        latents: scaled, (n, c, h, w). text: of n rows. timesteps: (n,), uniform if None.
        Source: Ho et al. 2020, eq. 14; v-prediction: Salimans & Ho 2022, section 4.
        """
        predicted, target = self._compared(latents, text, rng, timesteps, None)
        return mse_loss(predicted, target, reduction="none").flatten(1).mean(1)

    def residual(
        self,
        latents: Tensor,
        text: Text,
        rng: Draws,
        timesteps: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Tensor:
        """The prediction minus what it should be, float32, in the shape of the latents.

        target: what the prediction is compared with in the place of the model's own target. See
        `denoising_loss` for the rest.
        """
        predicted, target = self._compared(latents, text, rng, timesteps, target)
        return predicted - target

    def _compared(
        self,
        latents: Tensor,
        text: Text,
        rng: Draws,
        timesteps: Tensor | None,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        noise = self._normal(latents.shape, rng)
        if timesteps is None:
            timesteps = _each(rng, (len(latents),), partial(torch.randint, 0, self.horizon))
        timesteps = sent(timesteps, self.device)
        predicted = self.predict(self.noised(latents, noise, timesteps), timesteps, text)
        if target is None:
            target = self.target(latents, noise, timesteps)
        return predicted, target

    @abstractmethod
    def ladder(self) -> Any:
        """The model's own ladder of noise as a DDPMScheduler whose timesteps nobody has set.

        Raises:
            CloakBenchError: the family has none.
        """

    @property
    @abstractmethod
    def last_layers(self) -> Sequence[torch.nn.Module]:
        """The layers of the denoiser's last block, whose outputs are features of the image."""

    # Images

    @abstractmethod
    def generate(
        self,
        prompt: str,
        generators: Sequence[Generator],
        *,
        sampler: str,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
    ) -> Tensor:
        """An image of the spec's resolution per generator: pixels (n, 3, h, w), not clamped."""

    @abstractmethod
    def redraw(
        self,
        pixels: Tensor,
        prompt: str,
        generators: Sequence[Generator],
        *,
        strength: float,
        steps: int,
        guidance: float,
    ) -> Tensor:
        """Image to image: pixels (n, 3, h, w) noised by a share of the steps and drawn anew."""

    # Training

    @abstractmethod
    def thaw(self, what: Literal["all", "attention"], *, text_encoder: bool = True) -> None:
        """Make weights trainable.

        what: "all" of the denoiser; or of its "attention" the keys and values that read the text
            (Custom Diffusion, Kumari et al. 2023, section 3.1). text_encoder: its weights, too.
        """

    @abstractmethod
    def add_lora(self, rank: int, rng: Generator, *, text_encoder: bool = False) -> None:
        """Add float32 LoRA factors to the attention blocks and thaw only these."""

    def trainable(self) -> list[torch.nn.Parameter]:
        """The thawed parameters, in a fixed order."""
        return [p for p in self._parameters() if p.requires_grad]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No parameter needs a gradient inside, and at precision bf16 all are bfloat16.

        Afterwards the thawed ones are thawed again, and all are what they were. Without autocast's
        casts a step of PGD takes three fifths of the operators and of the memory; norms are
        computed in bfloat16.
        """
        thawed = self.trainable()
        for parameter in thawed:
            parameter.requires_grad_(False)
        try:
            with self._in_bfloat16(self._parameters() if self.spec.precision == "bf16" else ()):
                yield
        finally:
            for parameter in thawed:
                parameter.requires_grad_(True)

    @contextmanager
    def cast_once(self) -> Iterator[None]:
        """Inside, weights are what autocast would cast them to, in every layer and every step.

        It changes no bit of what networks return, and saves an operator for every weight and step.
        No gradient may reach the weights meanwhile.
        """
        layers = (layer for network in self.networks for layer in network.modules())
        cast = (layer.parameters(recurse=False) for layer in layers if isinstance(layer, CAST))
        with self._in_bfloat16(chain.from_iterable(cast) if self.casts else ()):
            yield

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was thawed or added as safetensors, as `adopt` reads it."""

    @abstractmethod
    def adopt(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            CloakBenchError: there are no weights, or they are not of this model's kind.
        """

    @abstractmethod
    def merge(self) -> None:
        """Make a trained model what `adopt` makes of its saved weights."""

    # The model as a whole

    def to(self, device: str) -> None:
        """Move all weights to a device."""
        for network in self.networks:
            network.to(device)
        self.device = device
        self.forget_recordings()
        self.settle()

    def forget_recordings(self) -> None:
        """Free the memory of recordings that will not be replayed any more."""
        self._places.clear()
        for replay in self.replays:
            replay.forget()

    @abstractmethod
    def settle(self) -> None:
        """Have networks run as suits the device; again after they were moved or replaced."""

    def cast_weights(self, precision: str) -> None:
        """Store all weights in a precision ("fp32" or "bf16"), as some references do."""
        for network in self.networks:
            torch.nn.Module.to(network, _PRECISIONS[precision])  # diffusers' own warns of nothing
        self.forget_recordings()

    def autocast(self) -> torch.autocast:
        """The context in which networks run: autocast at precision bf16, if weights are float32."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.casts)

    @property
    def casts(self) -> bool:
        """Whether networks run in bfloat16 with weights in float32, be it those of norms alone."""
        return self.spec.precision == "bf16" and any(
            parameter.dtype == torch.float32 for parameter in self._parameters()
        )

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Float32 weights run in float32 inside, whatever the spec says."""
        spec = self.spec
        self.spec = spec.model_copy(update={"precision": "fp32"})
        try:
            yield
        finally:
            self.spec = spec

    @contextmanager
    def _in_bfloat16(self, parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
        """Those of the parameters that are float32 are bfloat16 inside, and what they were after.

        Where there is room, they are at the same addresses each time, for recordings to find them.
        """
        full = [(each, each.data) for each in parameters if each.dtype == torch.float32]
        stay = bool(self._places) or (bool(self.replays) and has_room())
        for parameter, weights in full:
            place = self._places.get(parameter)
            narrow = weights.to(torch.bfloat16) if place is None else place.copy_(weights)
            parameter.data = self._places[parameter] = narrow
        try:
            yield
        finally:
            for parameter, weights in full:
                parameter.data = weights
            if not stay:
                self._places.clear()

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for network in self.networks for parameter in network.parameters())

    def _normal(self, shape: Sequence[int], rng: Draws) -> Tensor:
        return sent(_each(rng, shape, torch.randn), self.device)


def _each(rng: Draws, shape: Sequence[int], drawn: Callable[..., Tensor]) -> Tensor:
    """Draws of a shape (n, ...), by one generator or by n."""
    if isinstance(rng, Generator):
        return drawn(tuple(shape), generator=rng)
    return torch.cat([drawn((1, *shape[1:]), generator=each) for each in rng])


def sent(values: Tensor, device: str | torch.device) -> Tensor:
    """On the device, without waiting for the work that is queued there."""
    return values.to(device, non_blocking=True)
