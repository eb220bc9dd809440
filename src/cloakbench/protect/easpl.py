"""E-ASPL: ASPL against several models at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloakbench.protect.aspl import ASPL
from cloakbench.protect.base import protections
from cloakbench.protect.ensemble import STABLE_DIFFUSION, Device, EnsembleProtection
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job, Stateful


@protections.register("easpl")
class EASPL(EnsembleProtection, ASPL):
    """A round of ASPL from the same pixels for each model, then the mean of their results.

    With the experiment's model alone it is ASPL, but for rounding: a mean of photos is laid out
    anew in memory, and convolutions sum in the order of the layout.
    """

    source = "Le et al. 2023, Anti-DreamBooth, arXiv 2303.15433, ensembles (recipes 1.4)"
    presets = {
        "paper": {"budget": "6/255", "faithful": True, "models": STABLE_DIFFUSION},
        "mini": {"learning_rate": 2e-4, "models": ("resources/second",)},
        "tiny": {"rounds": 2, "pgd_steps": 1, "training_steps": 1},
    }

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        import torch

        original = identity.instance_images.pixels.to(model.device)
        members = self.members(model, job)
        device, surrogates = Device(members), []
        perturbed = Pixels(original)
        state: dict[str, Stateful] = {"pixels": perturbed}
        for index, member in device.visits():
            surrogate = self.surrogate(identity, member.model, member.job)
            state[f"surrogate-{index}"] = member.tuner = surrogate.tuner
            surrogates.append(surrogate)

        for number in job.steps("easpl", self.rounds, state):
            results = [original] * len(members)
            for index, _ in device.visits(number):
                surrogate = surrogates[index]
                results[index] = self.alternation(surrogate, perturbed.value, original, number)
            perturbed.value = torch.stack(results).mean(0)
        return perturbed.value
