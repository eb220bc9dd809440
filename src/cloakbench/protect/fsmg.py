"""FSMG: ascend the denoising loss of one surrogate that was fine-tuned on clean photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.surrogate import Denoising, SurrogateProtection
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.running.jobs import Job


@protections.register("fsmg")
class FSMG(SurrogateProtection):
    """Fully-trained surrogate model guidance: DreamBooth on set_A, then PGD on set_B.

    The script's DreamBooth has two instance and two class images in a batch (recipes 3.1).
    """

    source = "Le et al. 2023, Anti-DreamBooth, arXiv 2303.15433, section 4.3"
    presets = {
        "paper": {"budget": "6/255"},
        "mini": {"training_steps": 400, "learning_rate": 2e-4, "batch_size": 1},
        "tiny": {"training_steps": 2, "steps": 2},
    }

    effort: ClassVar[tuple[str, ...]] = ("steps",)

    training_steps: int = Field(1000, ge=0, description="DreamBooth steps of the surrogate")
    batch_size: int = Field(2, ge=1, description="instance images per step, and class images")
    steps: int = Field(100, ge=1, description="PGD steps")

    @property
    def sparing(self) -> dict[str, bool]:
        return {"lower its `batch_size`": self.batch_size > 1}

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        original = identity.instance_images.pixels.to(model.device)
        self.train(identity, model, job)
        loss = Denoising(model, self.instance_prompt(identity.prompts), job)
        perturbed = Pixels(original)
        with model.frozen():
            for step in job.steps("pgd", self.steps, {"pixels": perturbed}):
                perturbed.value = self.ascend(
                    perturbed.value, original, model, loss, job, range(step, step + 1)
                )
        return perturbed.value

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        tuner = super().tuner(model, identity, job)
        tuner.batch_size = self.batch_size
        return tuner

    def train(self, identity: Identity, model: DiffusionModel, job: Job) -> None:
        """Make `model` the surrogate: DreamBooth on the clean photos."""
        assert identity.surrogate_images is not None
        clean = model.posterior_once(identity.surrogate_images.pixels)
        tuner = self.tuner(model, identity, job)
        for step in job.steps("surrogate", self.training_steps, {"tuner": tuner}):
            tuner.step(clean, step, job.rng)
        tuner.check()
