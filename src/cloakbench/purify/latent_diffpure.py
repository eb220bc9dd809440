"""Latent DiffPure: noise to a depth, and every guided ancestral step back, in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.files.images import resized
from cloakbench.models.denoiser import BATCH, Denoiser
from cloakbench.purify.base import ModelPurifier, purifiers
from cloakbench.purify.denoise import Diffusing

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@purifiers.register("latent_diffpure")
class LatentDiffPure(Diffusing, ModelPurifier):
    """Noises each photo's latents and lets the experiment's model denoise them under a prompt.

    Photos are resized to the model's resolution and back, if they have another. The reference uses
    Stable Diffusion 1.4, which an experiment can name as its model. The preset `empty` is Latent
    DiffPure-∅: without a prompt there is nothing to guide towards. `mini` has a quarter as much
    noise for as much signal, as its photos have a quarter of the side, and its sampling's guidance.
    The reference starts from a sample of the VAE's posterior, here it is the mode, and takes one
    step more.
    """

    source = "DiffShortcut defenses/ldiffp (recipes 2)"
    presets = {
        "paper": {},
        "empty": {"prompt": ""},
        "mini": {"depth": 45, "guidance": 2.0},
        "tiny": {"depth": 2},
    }
    class_texts = ("prompt",)

    depth: int = Field(300, ge=0, le=1000, description="steps of noise; 0: only the VAE's way")
    prompt: str = Field(
        "a photo of a person, clear, high resolution, high quality, noise-free",
        description="text that guides the denoising; may be empty",
    )
    guidance: float = Field(7.5, ge=1, description="classifier-free guidance scale; 1: none")

    def clean(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        import torch

        side = model.spec.resolution
        latents = model.mode(model.posterior_once(resized(pixels, (side, side))))
        with model.cast_once():
            latents = self.walk(latents, self.depth, self._denoiser(model), job)
            decoded = torch.cat([model.decode(part) for part in latents.split(BATCH)])
        return resized(decoded, pixels.shape[-2:]).cpu()

    def _denoiser(self, model: DiffusionModel) -> Denoiser:
        """The model under the prompt, on its own ladder; latents are not clipped."""
        import torch

        text = model.embed(["", self.prompt])
        guided = self.guidance > 1 and self.prompt != ""

        def output(noisy: Tensor, step: int, row: int) -> Tensor:
            return model.predict(noisy, step, text[row : row + 1].repeated(len(noisy)))

        def predict(noisy: Tensor, step: int) -> Tensor:
            towards = output(noisy, step, 1)
            if not guided:
                return towards
            away = output(noisy, step, 0)
            return away + self.guidance * (towards - away)

        return Denoiser(
            lambda noisy, step: torch.cat([predict(part, step) for part in noisy.split(BATCH)]),
            model.ladder(),
        )
