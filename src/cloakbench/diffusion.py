"""LatentDiffusion: the one place that touches a VAE, text encoder, U-Net and scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from cloakbench.errors import CloakBenchError
from cloakbench.models import load_frozen

if TYPE_CHECKING:
    from cloakbench.models import ModelSpec

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}
_LOADING_ERRORS = (OSError, ValueError, LookupError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class Latents:
    """The VAE's posterior of n images, unscaled: two tensors of shape (n, c, h/8, w/8)."""

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: slice | list[int]) -> Latents:
        if isinstance(index, list):
            chosen = _sent(torch.tensor(index), self.mean.device)
            return Latents(self.mean[chosen], self.std[chosen])
        return Latents(self.mean[index], self.std[index])


@dataclass
class LatentDiffusion:
    """A Stable Diffusion model: pixels [0, 1] outside, latents and noise inside.

    All weights are frozen and float32; a trainer thaws what it trains. Random draws come from CPU
    generators, so that noise does not depend on the device.

    frugal: compute activations again instead of storing them (Chen et al. 2016, arXiv 1604.06174),
        which changes no bit of a gradient, and sample images one at a time, which may change one
        grey level of a sample.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    spec: ModelSpec
    device: str = "cpu"
    frugal: bool = False
    _tokens: dict[tuple[str, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.frugal:
            self.vae.enable_gradient_checkpointing()
            self.unet.enable_gradient_checkpointing()

    @classmethod
    def load(cls, spec: ModelSpec, device: str = "cpu", frugal: bool = False) -> LatentDiffusion:
        """Load the parts that personalisation needs, from a folder or the hub's cache.

        Raises:
            CloakBenchError: a part is missing or is not what its folder's name says.
        """
        spec.check()
        folder = spec.folder()
        with one_line(f"model {spec.path}"):
            return cls(
                vae=_network(AutoencoderKL, folder, "vae").to(device),
                text_encoder=_network(CLIPTextModel, folder, "text_encoder").to(device),
                tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
                unet=_network(UNet2DConditionModel, folder, "unet").to(device),
                scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
                spec=spec,
                device=device,
                frugal=frugal,
            )

    # Pixels and latents

    def posterior(self, pixels: Tensor) -> Latents:
        """Encode pixels (n, 3, h, w) in [0, 1]; differentiable."""
        with self.autocast():
            scaled = (2 * pixels - 1).to(self.device, self.vae.dtype)
            encoded = self.vae.encode(scaled).latent_dist
        return Latents(encoded.mean.float(), encoded.std.float())

    @torch.no_grad()
    def posterior_once(self, pixels: Tensor, batch_size: int = 8) -> Latents:
        """The posterior of images that do not change, in batches and without gradients."""
        parts = [self.posterior(batch) for batch in pixels.split(batch_size)]
        return Latents(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))

    def draw(self, latents: Latents, rng: Generator) -> Tensor:
        """One sample of the posterior, scaled as the U-Net expects it."""
        noise = self._normal(latents.mean.shape, rng)
        return (latents.mean + latents.std * noise) * self.vae.config.scaling_factor

    def mode(self, latents: Latents) -> Tensor:
        """The most likely latents, the posterior's mean, scaled as the U-Net expects them."""
        return latents.mean * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to pixels (n, 3, h, w), clamped to [0, 1]."""
        with self.autocast():
            unscaled = latents / self.vae.config.scaling_factor
            decoded = self.vae.decode(unscaled.to(self.vae.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    # Text

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings, shape (n, tokens, width); differentiable in the text encoder."""
        known = tuple(prompts)
        if known not in self._tokens:
            encoded = self.tokenizer(
                list(prompts),
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            self._tokens[known] = encoded.input_ids
        with self.autocast():
            return self.text_encoder(_sent(self._tokens[known], self.device))[0].float()

    # Diffusion

    def denoising_loss(
        self,
        latents: Tensor,
        text: Tensor,
        rng: Generator,
        timesteps: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the predicted noise (or velocity), one float32 value per image.

        latents: scaled, (n, c, h, w). text: (n, tokens, width). timesteps: (n,), uniform if None.
        Source: Ho et al. 2020, eq. 14; v-prediction: Salimans & Ho 2022, section 4.
        """
        return self.residual(latents, text, rng, timesteps).square().flatten(1).mean(1)

    def residual(
        self,
        latents: Tensor,
        text: Tensor,
        rng: Generator,
        timesteps: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Tensor:
        """Predicted minus true noise (or velocity), float32, in the shape of the latents.

        target: what the prediction is compared with in the true noise's place. See
        `denoising_loss` for the rest.
        """
        noise = self._normal(latents.shape, rng)
        if timesteps is None:
            horizon = self.scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, horizon, (len(latents),), generator=rng)
        timesteps = _sent(timesteps, self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        with self.autocast():
            dtype = self.unet.dtype
            predicted = self.unet(noisy.to(dtype), timesteps, text.to(dtype)).sample
        if target is None:
            target = self._target(latents, noise, timesteps)
        return predicted.float() - target

    def _target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return self.scheduler.get_velocity(latents, noise, timesteps)
            case other:
                raise CloakBenchError(
                    f"model {self.spec.path}: prediction type '{other}' is not supported. "
                    "Use an epsilon or v_prediction model."
                )

    # The model as a whole

    def to(self, device: str) -> None:
        """Move all weights to a device."""
        for network in (self.vae, self.text_encoder, self.unet):
            network.to(device)
        self.device = device

    def cast_weights(self, precision: str) -> None:
        """Store all weights in a precision ("fp32" or "bf16"), as some references do."""
        dtype = _AUTOCAST[precision] or torch.float32
        for network in (self.vae, self.text_encoder, self.unet):
            network.to(dtype)

    def adopt(self, folder: Path) -> None:
        """Replace U-Net and text encoder by what a trainer saved in `folder` (see `save`).

        Raises:
            CloakBenchError: there are no weights, or they are not of this model's kind.
        """
        if (folder / "pytorch_lora_weights.safetensors").exists():
            with one_line(f"weights {folder}"):
                pipeline = self.pipeline()
                pipeline.load_lora_weights(folder)
                pipeline.fuse_lora()
            return
        if not (folder / "unet").is_dir():
            raise CloakBenchError(
                f"{folder}: no personalised weights. Run `cloakbench personalise`."
            )
        with one_line(f"weights {folder}"):
            self.unet = _network(UNet2DConditionModel, folder, "unet").to(self.device)
            if (folder / "text_encoder").is_dir():
                encoder = _network(CLIPTextModel, folder, "text_encoder")
                self.text_encoder = encoder.to(self.device)

    def pipeline(self, scheduler: Any = None) -> Any:
        """The model as a StableDiffusionPipeline, sharing its weights."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler or self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _normal(self, shape: Sequence[int], rng: Generator) -> Tensor:
        return _sent(torch.randn(tuple(shape), generator=rng), self.device)

    def autocast(self) -> torch.autocast:
        """The context in which the networks run at the model's precision."""
        dtype = _AUTOCAST[self.spec.precision]
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _sent(values: Tensor, device: str | torch.device) -> Tensor:
    """On the device, without waiting for the work that is queued there."""
    return values.to(device, non_blocking=True)


def _network(kind: Any, path: Path, name: str) -> Any:
    """One of a model's networks, as `load_frozen` gives it; an error names it."""
    try:
        return load_frozen(kind, path, subfolder=name, use_safetensors=True)
    except _LOADING_ERRORS as error:
        raise ValueError(f"'{name}': {error}") from error


def padded(pixels: Tensor, vae: AutoencoderKL) -> Tensor:
    """Pixels with their last row and column repeated until the VAE's factor divides the sides."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    bottom, right = (-side % factor for side in pixels.shape[-2:])
    return torch.nn.functional.pad(pixels, (0, right, 0, bottom), mode="replicate")


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """What the libraries raise for missing, broken or foreign files, as one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise CloakBenchError(
            f"{what}: cannot be loaded ({reason}). Check the path, or get the files again."
        ) from error
