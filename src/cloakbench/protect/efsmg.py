"""E-FSMG: FSMG against several models at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.ensemble import STABLE_DIFFUSION, Device, EnsembleProtection
from cloakbench.protect.fsmg import FSMG
from cloakbench.protect.surrogate import Denoising
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@protections.register("efsmg")
class EFSMG(EnsembleProtection, FSMG):
    """Rounds of PGD from the same pixels against each surrogate, then the mean of their results.

    With the experiment's model alone it is FSMG with rounds x steps steps, but for rounding (see
    `easpl`).
    """

    source = "Le et al. 2023, Anti-DreamBooth, arXiv 2303.15433, ensembles (recipes 1.4)"
    presets = {
        "paper": {"budget": "6/255", "models": STABLE_DIFFUSION},
        "mini": {
            "training_steps": 400,
            "learning_rate": 2e-4,
            "batch_size": 1,
            "rounds": 18,
            "models": ("resources/second",),
        },
        "tiny": {"training_steps": 2, "rounds": 2, "steps": 1},
    }

    effort: ClassVar[tuple[str, ...]] = ("rounds", "steps")

    rounds: int = Field(60, ge=1, description="means over the models")
    steps: int = Field(12, ge=1, description="PGD steps against each model in a round")

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        import torch

        original = identity.instance_images.pixels.to(model.device)
        members = self.members(model, job)
        device, losses = Device(members), []
        for _, member in device.visits():
            self.train(identity, member.model, member.job)
            losses.append(
                Denoising(member.model, self.instance_prompt(identity.prompts), member.job)
            )

        perturbed = Pixels(original)
        for number in job.steps("efsmg", self.rounds, {"pixels": perturbed}):
            steps = range(number * self.steps, (number + 1) * self.steps)
            results = [original] * len(members)
            for index, member in device.visits(number):
                results[index] = self.ascend(
                    *(perturbed.value, original, member.model, losses[index], member.job, steps)
                )
            perturbed.value = torch.stack(results).mean(0)
        return perturbed.value
