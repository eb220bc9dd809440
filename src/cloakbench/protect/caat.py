"""CAAT: pixels ascend the loss that the surrogate's cross-attention descends, in one backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.base import protections
from cloakbench.protect.pgd import ascended, batches
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@protections.register("caat")
class CAAT(PromptedAscent):
    """Cross-attention attack: joint training of the photos and of the keys and values.

    The prompt is the class prompt, which has no identifier ("a photo of a person" there, without
    the article here unless the experiment's prompts have it). There is no prior: the published
    script takes half of the photos for class images where it is switched on (recipes 1.14).
    """

    source = "Xu et al. 2024, CAAT, arXiv 2404.15081; its published settings (recipes 1.14)"
    presets = {
        "paper": {"budget": "6/255"},
        "mini": {"learning_rate": 2e-4},
        "tiny": {"steps": 3},
    }

    effort: ClassVar[tuple[str, ...]] = ("steps",)

    steps: int = Field(250, ge=1, description="joint steps, on all photos as one batch")
    relative_step: float = Field(
        0.1, gt=0, le=1, description="step of the pixels as a share of the budget (0.005 of 0.05)"
    )
    learning_rate: float = Field(1e-5, gt=0, description="AdamW's rate for keys and values")

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        from cloakbench.models.tuning import FineTuner
        from cloakbench.protect.surrogate import Denoising

        original = identity.instance_images.pixels.to(model.device)
        prompt = self.naming(identity.prompts.class_prompt)
        model.thaw("attention", text_encoder=False)
        tuner = FineTuner(model, prompt, None, learning_rate=self.learning_rate)
        loss = self.adaptive(Denoising(model, prompt, job), model, job)
        perturbed = Pixels(original)
        for step in job.steps("caat", self.steps, {"keys_values": tuner, "pixels": perturbed}):
            pixels = perturbed.value.detach().requires_grad_(True)
            tuner.descend(
                loss(part, step, rows).sum() / len(pixels) for part, rows in batches(pixels)
            )
            assert pixels.grad is not None
            perturbed.value = ascended(
                pixels.detach(), pixels.grad, original, self.radius, self.step_size(step)
            )
            if step % 50 == 49:
                tuner.check()
        tuner.check()
        return perturbed.value
