"""Glaze-like: latents are drawn towards those of the photo in another style."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.descent import PerceptualDescent
from cloakbench.protect.base import ModelProtection, protections

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@protections.register("glaze")
class Glaze(PerceptualDescent, ModelProtection):
    """Glaze as IMPRESS re-implements it ("Glaze-like"; the real Glaze is closed).

    Minimises the mean squared distance between the latents (posterior means, unscaled, where the
    reference draws samples) of the photo and of its own img2img rendering in another style, under a
    perceptual hinge. The reference bounds the hinge alone: preset `paper` says so with a budget of
    255/255, which projects to [0, 1] and no further; every smaller budget is projected to at each
    step. The miniature knows no painters; `mini` asks its model for another person instead, and
    holds DSSIM.
    """

    source = (
        "Shan et al. 2023, Glaze, arXiv 2302.04222, as in Cao et al. 2023, IMPRESS, "
        "arXiv 2310.19248 (recipes 1.11)"
    )
    presets = {
        "paper": {"budget": "255/255"},
        "mini": {
            "steps": 150,
            "perceptual": "dssim",
            "style_prompt": "a portrait of a young woman with a red afro, laughing",
            "style_strength": 0.6,
            "style_steps": 25,
            "style_guidance": 3.0,
            "batch_size": 4,
        },
        "tiny": {
            "steps": 3,
            "perceptual": "dssim",
            "style_steps": 10,
            "style_strength": 0.1,
            "batch_size": 2,
        },
    }

    effort: ClassVar[tuple[str, ...]] = ("steps",)

    style_prompt: str = Field("Cubism by Picasso style", description="prompt of the style target")
    style_strength: float = Field(0.4, ge=0.1, le=1, description="img2img's share of noise steps")
    style_guidance: float = Field(7.5, ge=1, description="img2img's classifier-free guidance")
    style_steps: int = Field(
        50, ge=10, le=1000, description="img2img's steps (DPM-Solver++) for a strength of 1"
    )

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        original = identity.instance_images.pixels.to(model.device)
        stylised = self.stylised(original, model, job)
        with model.full_precision():  # from here on the VAE works alone
            return self.approach(stylised, original, model, job)

    def approach(
        self, stylised: Tensor, original: Tensor, model: DiffusionModel, job: Job
    ) -> Tensor:
        """The photos, descended towards the latents of the stylised ones."""
        import torch

        target = model.posterior_once(stylised, self.batch_size).mean
        # The reference starts within its perceptual bound, read as a change on [-1, 1].
        draws = [
            torch.rand(photo.shape, generator=job.rng("start", index))
            for index, photo in enumerate(original)
        ]
        start = original + self.perceptual_bound * (torch.stack(draws).to(original.device) - 0.5)
        low = (original - self.radius).clamp(min=0)
        high = (original + self.radius).clamp(max=1)
        return self.descend(
            start.clamp(low, high),
            original,
            lambda pixels, part: latent_distance(model, pixels, target[part]),
            job,
            low=low,
            high=high,
            rate=lambda step: self.learning_rate,
        )

    def stylised(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        """The photos redrawn under the style prompt: img2img with noise of its own per photo."""
        import torch

        drawn = []
        for start in range(0, len(pixels), self.batch_size):
            batch = pixels[start : start + self.batch_size]
            images = model.redraw(
                batch,
                self.style_prompt,
                [job.rng("style", start + i) for i in range(len(batch))],
                strength=self.style_strength,
                steps=self.style_steps,
                guidance=self.style_guidance,
            )
            drawn.append(images.float().clamp(0, 1))
        return torch.cat(drawn)


def latent_distance(model: DiffusionModel, pixels: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of posterior means to a target (n, c, h/8, w/8), one per image."""
    return (model.posterior(pixels).mean - target).square().flatten(1).mean(1)
