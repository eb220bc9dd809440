"""ACE: make the noise that a model predicts the same picture at every timestep."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.prior import PriorPreservation
from cloakbench.protect.ascent import PromptedAscent
from cloakbench.protect.base import protections
from cloakbench.protect.photowise import PhotowiseProtection, by_photo, mean_square
from cloakbench.protect.target import TargetedProtection
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.prompts import Prompts
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job


@protections.register("ace")
class ACE(TargetedProtection, PriorPreservation, PhotowiseProtection, PromptedAscent):
    """Pulls the predicted noise to the target's latents while a LoRA surrogate learns the photos.

    A round is PGD on the photos, then fine-tuning on the perturbed photos. With a
    `texture_weight` the photo's latents are pulled to the target as well: ACE+. Of the U-Net
    only LoRA factors are trained, and the text encoder is not. With a velocity model the
    prediction that is pulled is the velocity. The prompts are the experiment's; the reference's is
    "a picture" for photos and class images alike. The reference's LoRA is also on the layers
    between attentions, its optimiser new in each round, and its target a sample of the target's
    latents, not their mean.
    """

    source = "Zheng et al. 2025, ACE, arXiv 2310.04687; Mist-v2's attacks/mist.py (recipes 1.16)"
    presets = {
        "paper": {"budget": "4/255"},
        "mini": {"rounds": 3, "steps": 15, "training_steps": 20},
        "tiny": {"rounds": 2, "steps": 1, "training_steps": 1},
    }
    needs: ClassVar[frozenset[str]] = frozenset({"model", "class_images"})
    random_start: ClassVar[bool] = False
    effort: ClassVar[tuple[str, ...]] = ("rounds", "steps")

    relative_step: float = Field(
        0.16, gt=0, le=1, description="PGD step as a share of the budget (0.005 of 8/255 there)"
    )
    rounds: int = Field(5, ge=1, description="alternations")
    steps: int = Field(30, ge=1, description="PGD steps for each photo in a round")
    training_steps: int = Field(10, ge=0, description="LoRA steps in a round, on a photo each")
    texture_weight: float = Field(
        0.0, ge=0, description="weight of the latents' distance to the target (ACE+: 100)"
    )
    rank: int = Field(4, ge=1, description="rank of the LoRA factors")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's rate for the LoRA factors")
    prior_weight: float = Field(0.1, ge=0, description="weight of the class images' loss")

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        original = identity.instance_images.pixels.to(model.device)
        loss = self.objective(original, model, identity.prompts, job)
        tuner = self.tuner(model, identity, job)
        perturbed = Pixels(self.start(original, job))
        for number in job.steps("ace", self.rounds, {"lora": tuner, "pixels": perturbed}):
            steps = range(number * self.steps, (number + 1) * self.steps)
            perturbed.value = self.ascend(perturbed.value, original, model, loss, job, steps)
            protected = model.posterior_once(perturbed.value)
            for step in range(number * self.training_steps, (number + 1) * self.training_steps):
                tuner.step(protected, step, job.rng)
            tuner.check()
        return perturbed.value

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        """The surrogate: the model with LoRA factors, and their optimiser."""
        from cloakbench.models.tuning import FineTuner

        model.add_lora(self.rank, job.rng("lora"))
        prompts = identity.prompts
        prior = self.prior(model, identity.class_images, self.class_prompt(prompts))
        prompt = self.instance_prompt(prompts)
        return FineTuner(model, prompt, prior, learning_rate=self.learning_rate)

    def objective(self, photos: Tensor, model: DiffusionModel, prompts: Prompts, job: Job) -> Loss:
        text = model.embed([self.instance_prompt(prompts)])
        goal = self.target_latents(photos, model)

        def concentration(pixels: Tensor, step: int, rows: slice) -> Tensor:
            rngs, told = by_photo(job, step, pixels, rows), text.repeated(len(pixels))
            latents = model.mode(model.posterior(pixels))
            score = -mean_square(model.residual(latents, told, rngs, target=goal))
            return score - self.texture_weight * mean_square(latents - goal)

        return concentration
