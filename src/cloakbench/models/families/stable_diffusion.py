"""Stable Diffusion 1.x and 2.x, in diffusers' format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from safetensors import SafetensorError
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPEncoder

from cloakbench.errors import CloakBenchError, is_out_of_memory
from cloakbench.models.base import DiffusionModel, Latents, Text, sent
from cloakbench.models.loading import load_frozen, one_line
from cloakbench.models.replay import replayed
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tokens import check_lengths
from cloakbench.models.vae import padded, round_trip
from cloakbench.running.gpu import LARGE

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # their default clips: for pixels
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}
LORA = "pytorch_lora_weights.safetensors"
DIVISORS = ("output_scale_factor", "rescale_output_factor")
COMPUTED_AGAIN = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class StableDiffusion(DiffusionModel):
    """A U-Net that reads one CLIP's text and predicts noise or velocity."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        scheduler: DDPMScheduler,
        text_encoder: Any = None,
        unet: Any = None,
        device: str = "cpu",
        frugal: bool = False,
    ) -> None:
        """Takes the parts as they are: frozen, and on the device; perhaps the VAE alone."""
        super().__init__()
        self.spec, self.device, self.frugal = spec, device, frugal
        self.vae, self.unet, self.scheduler = vae, unet, scheduler
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self._tokens: dict[tuple[str, ...], Tensor] = {}
        for network in (vae, unet) if unet else (vae,):
            _divide_by_nothing(network)
            if frugal:
                network.enable_gradient_checkpointing()
        self.settle()

    @classmethod
    def load(cls, spec: ModelSpec, device: str, frugal: bool, *, vae_alone: bool = False) -> Self:
        folder = spec.folder()

        def network(kind: Any, name: str) -> Any:
            return _network(kind, folder, name, variant=spec.variant).to(device)

        return cls(
            spec,
            vae=network(AutoencoderKL, "vae"),
            text_encoder=None if vae_alone else network(CLIPTextModel, "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
            unet=None if vae_alone else network(UNet2DConditionModel, "unet"),
            scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
            device=device,
            frugal=frugal,
        )

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        return (self.unet, self.text_encoder, self.vae) if self.unet else (self.vae,)

    def settle(self) -> None:
        """On a GPU networks are replayed, unless memory is short; all but large ones spare it.

        The VAE's attention is not fused there: where it has to repeat, the gradient of its one wide
        head is half of a step of PGD on an H100.
        """
        kind = torch.device(self.device).type
        if self.unet and not self.frugal and self.spec.precision == "bf16":
            self.unet.disable_gradient_checkpointing() if self.on_large_card else self.spare()
        if kind != "cpu":
            for part in self.vae.modules():
                if isinstance(part, Attention):
                    part.set_processor(AttnProcessor())
                    part.upcast_softmax = False  # which sums in float32 anyway
        if kind == "cuda" and not self.frugal:
            found = (self.vae.encoder, self.unet, _layers(self.text_encoder))
            self.replays = [replayed(network) for network in found if network is not None]

    @property
    def on_large_card(self) -> bool:
        """Whether it is on a GPU with more memory than training needs, recordings and all."""
        where = torch.device(self.device)
        return where.type == "cuda" and torch.cuda.get_device_properties(where).total_memory > LARGE

    @property
    def again(self) -> Callable[..., Any]:
        """Gradient checkpointing of a layer: a function of the layer and its inputs."""
        return COMPUTED_AGAIN

    def spare(self) -> None:
        """Keep no activations of the U-Net's outer blocks where float32 weights are trained.

        They are computed again in the backward pass, which changes no bit. The outer blocks see the
        largest images: two thirds of the activations and a sixth of a training step's FLOPs.
        """
        again = self.again
        blocks = (*self.unet.down_blocks[:2], *self.unet.up_blocks[-2:])
        outer = {layer for block in blocks for layer in block.modules()}

        def run(layer: torch.nn.Module, *inputs: Any) -> Any:
            weight = next(layer.parameters())
            trained = weight.requires_grad and weight.dtype == torch.float32
            return again(layer, *inputs) if trained and layer in outer else layer(*inputs)

        self.unet.enable_gradient_checkpointing(run)

    def posterior(self, pixels: Tensor) -> Latents:
        with self.autocast():
            scaled = (2 * pixels - 1).to(self.device, self.vae.dtype)
            encoded = self.vae.encode(scaled).latent_dist
        return Latents(encoded.mean.float(), encoded.std.float())

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        with self.autocast():
            unscaled = latents / self.vae.config.scaling_factor
            decoded = self.vae.decode(unscaled.to(self.vae.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def padded(self, pixels: Tensor) -> Tensor:
        return padded(pixels, self.vae)

    def round_trip(self, pixels: Tensor) -> Tensor:
        return round_trip(self.vae, pixels)

    def embed(self, prompts: Sequence[str]) -> Text:
        known = tuple(prompts)
        if known not in self._tokens:
            check_lengths(self.tokenizer, prompts)
            encoded = self.tokenizer(
                list(prompts),
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
            self._tokens[known] = encoded.input_ids
        with self.autocast():
            return Text(self.text_encoder(sent(self._tokens[known], self.device))[0].float())

    @property
    def horizon(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
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

    def predict(self, noisy: Tensor, timesteps: Tensor | int, text: Text) -> Tensor:
        if isinstance(timesteps, int):  # which would be copied to the device while it computes
            timesteps = sent(torch.tensor(timesteps), self.device)
        with self.autocast():
            dtype = self.unet.dtype
            predicted = self.unet(noisy.to(dtype), timesteps, text.embeddings.to(dtype)).sample
        return predicted.float()

    def ladder(self) -> DDPMScheduler:
        return DDPMScheduler.from_config(self.scheduler.config, clip_sample=False)

    @property
    def last_layers(self) -> Sequence[torch.nn.Module]:
        return tuple(self.unet.up_blocks[-1].resnets)

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
        check_lengths(self.tokenizer, [prompt, negative_prompt])
        pipeline, count = self._pipeline(sampler), len(generators)
        with self.autocast():
            return pipeline(
                [prompt] * count,
                negative_prompt=[negative_prompt] * count if guidance > 1 else None,
                height=self.spec.resolution,
                width=self.spec.resolution,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=list(generators),
                output_type="pt",
            ).images

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
        from diffusers import StableDiffusionImg2ImgPipeline

        check_lengths(self.tokenizer, [prompt])
        parts = self._pipeline("dpmpp").components
        pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        with self.autocast():
            return pipeline(
                [prompt] * len(pixels),
                image=pixels,
                strength=strength,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=list(generators),
                output_type="pt",
            ).images

    def thaw(self, what: Literal["all", "attention"], *, text_encoder: bool = True) -> None:
        for name, parameter in self.unet.named_parameters():
            read_text = "attn2.to_k." in name or "attn2.to_v." in name
            parameter.requires_grad_(what == "all" or read_text)
        self.text_encoder.requires_grad_(text_encoder)

    def add_lora(self, rank: int, rng: Generator, *, text_encoder: bool = False) -> None:
        """Peft draws the factors' start from torch's global generator, which is seeded from `rng`
        for the purpose and put back.
        Source: Hu et al. 2022; targets as in Anti-DreamBooth's LoRA scripts (recipes 1.5, 3.1).
        """
        from peft import LoraConfig

        def adapter(*targets: str) -> LoraConfig:
            return LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
            )

        self.unet.requires_grad_(False)
        self.text_encoder.requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(rng.initial_seed())
            self.unet.add_adapter(adapter("to_q", "to_k", "to_v", "to_out.0"))
            if text_encoder:
                self.text_encoder.add_adapter(adapter("q_proj", "k_proj", "v_proj", "out_proj"))

    def save(self, folder: Path) -> None:
        """Networks in diffusers' layout, or LoRA factors in its LoRA format."""
        if _has_lora(self.unet):
            return self._save_lora(folder)
        self.unet.save_pretrained(folder / "unet", safe_serialization=True)
        if any(parameter.requires_grad for parameter in self.text_encoder.parameters()):
            self.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
        return None

    def _save_lora(self, folder: Path) -> None:
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        def factors(network: Any) -> dict[str, Tensor] | None:
            if not _has_lora(network):
                return None
            state = get_peft_model_state_dict(network, save_embedding_layers=False)
            return convert_state_dict_to_diffusers(state)

        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=factors(self.unet),
            text_encoder_lora_layers=factors(self.text_encoder),
            safe_serialization=True,
        )

    def adopt(self, folder: Path) -> None:
        if (folder / LORA).exists():
            with one_line(f"weights {folder}"):
                pipeline = self._pipeline()
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
        self.settle()

    def merge(self) -> None:
        if _has_lora(self.unet):
            self._pipeline().fuse_lora()
        self.forget_recordings()  # of the training

    def _pipeline(self, sampler: str | None = None) -> Any:
        """The model as diffusers' pipeline, sharing its weights."""
        import diffusers

        scheduler = self.scheduler
        if sampler is not None:
            name, options = SAMPLERS[sampler]
            scheduler = getattr(diffusers, name).from_config(self.scheduler.config, **options)
        pipeline = diffusers.StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _network(kind: Any, path: Path, name: str, variant: str | None = None) -> Any:
    """One of a model's networks, as `load_frozen` gives it; an error names it."""
    try:
        return load_frozen(kind, path, subfolder=name, use_safetensors=True, variant=variant)
    except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"'{name}': {error}") from error


class _One:
    """A divisor of tensors that leaves them as they are."""

    def __rtruediv__(self, dividend: Tensor) -> Tensor:
        return dividend


def _divide_by_nothing(network: torch.nn.Module) -> None:
    """Blocks whose output diffusers divides by 1 return it at once, the same to the last bit."""
    for part in network.modules():
        for name in DIVISORS:
            if getattr(part, name, None) == 1:
                setattr(part, name, _One())


def _layers(text_encoder: Any) -> torch.nn.Module | None:
    """CLIP's layers, without the mask, which is another while kernels are recorded."""
    parts = text_encoder.modules() if text_encoder else ()
    return next((part for part in parts if isinstance(part, CLIPEncoder)), None)


def _has_lora(network: Any) -> bool:
    return bool(getattr(network, "peft_config", None))
