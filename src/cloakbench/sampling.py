"""Sampling: images from prompts, one generator per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}


class Sampling(BaseModel):
    """How images are generated.

    Source of the defaults: Anti-DreamBooth's and DiffShortcut's evaluation (recipes 4).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(16, ge=1, description="images per prompt")
    steps: int = Field(100, ge=1, le=1000, description="sampler steps")
    guidance: float = Field(7.5, ge=1, description="classifier-free guidance scale; 1: none")
    sampler: Literal["ddim", "ddpm", "pndm", "dpmpp"] = Field(
        "pndm", description="diffusers' scheduler"
    )
    batch_size: int = Field(8, ge=1, description="images generated at once")

    def generate(
        self,
        model: LatentDiffusion,
        prompt: str,
        seeds: Sequence[int],
        negative_prompt: str = "",
    ) -> Tensor:
        """Generate one image per seed, whatever the batch it is in.

        Returns:
            float32 pixels (len(seeds), 3, h, w) in [0, 1].
        """
        import torch

        if model.frugal and len(seeds) > 1:
            return torch.cat(
                [self.generate(model, prompt, [seed], negative_prompt) for seed in seeds]
            )
        pipeline = model.pipeline(self._scheduler(model))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with model.autocast():
            images = pipeline(
                [prompt] * len(seeds),
                negative_prompt=[negative_prompt] * len(seeds) if self.guidance > 1 else None,
                height=model.spec.resolution,
                width=model.spec.resolution,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=generators,
                output_type="pt",
            ).images
        return images.float().clamp(0, 1).cpu()

    def _scheduler(self, model: LatentDiffusion) -> Any:
        import diffusers

        name, options = SAMPLERS[self.sampler]
        return getattr(diffusers, name).from_config(model.scheduler.config, **options)
