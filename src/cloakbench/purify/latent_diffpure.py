"""Latent DiffPure: noise to a depth, and every guided ancestral step back, in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.images import resized
from cloakbench.purify.base import purifiers
from cloakbench.purify.denoise import BATCH, Denoiser, Diffusing

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@purifiers.register("latent_diffpure")
class LatentDiffPure(Diffusing):
    """Noises each photo's latents and lets the experiment's model denoise them under a prompt.

    Photos are resized to the model's resolution and back, if they have another. The reference uses
    Stable Diffusion 1.4, which an experiment can name as its model. The preset `empty` is Latent
    DiffPure-∅: without a prompt there is nothing to guide towards. `mini` has a quarter as much
    noise for as much signal, as its photos have a quarter of the side, and its sampling's guidance.
    """

    source = "DiffShortcut defenses/ldiffp (recipes 2)"
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    presets = {
        "paper": {},
        "empty": {"prompt": ""},
        "mini": {"depth": 45, "guidance": 2.0},
        "tiny": {"depth": 2},
    }

    depth: int = Field(300, ge=0, le=1000, description="steps of noise; 0: only the VAE's way")
    prompt: str = Field(
        "a photo of a person, clear, high resolution, high quality, noise-free",
        description="text that guides the denoising; may be empty",
    )
    guidance: float = Field(7.5, ge=1, description="classifier-free guidance scale; 1: none")

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        import torch

        assert model is not None
        side = model.spec.resolution
        latents = model.mode(model.posterior_once(resized(pixels, (side, side))))
        latents = self.walk(latents, self.depth, self._denoiser(model), job)
        decoded = torch.cat([model.decode(part) for part in latents.split(BATCH)])
        return resized(decoded, pixels.shape[-2:]).cpu()

    def _denoiser(self, model: LatentDiffusion) -> Denoiser:
        """The model under the prompt, on its own ladder; latents are not clipped."""
        import torch
        from diffusers import DDPMScheduler

        plain, prompted = model.embed(["", self.prompt]).split(1)
        guided = self.guidance > 1 and self.prompt != ""

        def output(noisy: Tensor, step: int, text: Tensor) -> Tensor:
            with model.autocast():
                return model.unet(noisy, step, text.expand(len(noisy), -1, -1)).sample.float()

        def predict(noisy: Tensor, step: int) -> Tensor:
            towards = output(noisy, step, prompted)
            if not guided:
                return towards
            away = output(noisy, step, plain)
            return away + self.guidance * (towards - away)

        return Denoiser(
            lambda noisy, step: torch.cat([predict(part, step) for part in noisy.split(BATCH)]),
            DDPMScheduler.from_config(model.scheduler.config, clip_sample=False),
        )
