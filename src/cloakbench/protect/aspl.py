"""ASPL: the surrogate and the perturbation are trained in turns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.surrogate import SurrogateProtection

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion, Latents
    from cloakbench.finetune import FineTuner
    from cloakbench.identity import Identity
    from cloakbench.jobs import Job, Stateful


@protections.register("aspl")
class ASPL(SurrogateProtection):
    """Alternating surrogate and perturbation learning.

    Each round fine-tunes a copy f' of the surrogate f on clean photos, ascends the loss of f', and
    fine-tunes f on the perturbed photos. `faithful` repeats three quirks of the published script
    (recipes 1.3): bfloat16 weights, a new optimiser for every call, and the same first images
    each time.
    """

    source = "Le et al. 2023, Anti-DreamBooth, arXiv 2303.15433, section 4.3"
    presets = {
        "paper": {"budget": "6/255", "faithful": True},
        "mini": {"learning_rate": 2e-4},
        "tiny": {"rounds": 2, "pgd_steps": 1, "training_steps": 1},
    }

    rounds: int = Field(50, ge=1, description="alternations")
    training_steps: int = Field(3, ge=0, description="fine-tuning steps on each side of a round")
    pgd_steps: int = Field(6, ge=1, description="PGD steps in a round")
    faithful: bool = Field(False, description="repeat the published script's quirks")

    def perturb(self, identity: Identity, model: LatentDiffusion | None, job: Job) -> Tensor:
        from cloakbench.pgd import Pixels

        assert model is not None
        assert identity.surrogate_images is not None
        original = identity.instance_images.pixels.to(model.device)
        if self.faithful:
            model.cast_weights("bf16")
        clean = model.posterior_once(identity.surrogate_images.pixels)
        surrogate = self.tuner(model, identity)
        lookahead = Lookahead(surrogate)
        perturbed = Pixels(original)
        state: dict[str, Stateful] = {
            "surrogate": surrogate,
            "lookahead": lookahead,
            "pixels": perturbed,
        }
        prompt = identity.prompts.instance_prompt
        for number in job.steps("aspl", self.rounds, state):
            with lookahead:
                self._train(surrogate, clean, number, job, "clean")
                pgd_steps = range(number * self.pgd_steps, (number + 1) * self.pgd_steps)
                perturbed.value = self.ascend(
                    perturbed.value, original, model, prompt, job, pgd_steps
                )
            protected = model.posterior_once(perturbed.value)
            self._train(surrogate, protected, number, job, "perturbed")
        surrogate.check()
        return perturbed.value

    def tuner(self, model: LatentDiffusion, identity: Identity) -> FineTuner:
        tuner = super().tuner(model, identity)
        if self.faithful:
            tuner.shuffled = False
            if tuner.prior is not None:
                first = tuner.prior.latents[: self.training_steps]
                tuner.prior = replace(tuner.prior, latents=first)
        return tuner

    def _train(self, tuner: FineTuner, images: Latents, number: int, job: Job, side: str) -> None:
        if self.faithful:
            tuner.optimiser = tuner.fresh_optimiser()
            images = images[: self.training_steps]
        for step in range(number * self.training_steps, (number + 1) * self.training_steps):
            tuner.step(images, step, partial(job.rng, side))


class Lookahead:
    """f' inside `with`, f outside: the weights are put back and each keeps its own moments."""

    def __init__(self, surrogate: FineTuner) -> None:
        self._surrogate = surrogate
        self._optimiser = surrogate.fresh_optimiser()

    def __enter__(self) -> None:
        self._weights = [parameter.detach().clone() for parameter in self._surrogate.parameters]
        self._swap()

    def __exit__(self, *_: object) -> None:
        import torch

        self._swap()
        with torch.no_grad():
            for parameter, saved in zip(self._surrogate.parameters, self._weights, strict=True):
                parameter.copy_(saved)

    def _swap(self) -> None:
        surrogate = self._surrogate
        surrogate.optimiser, self._optimiser = self._optimiser, surrogate.optimiser

    def state_dict(self) -> dict[str, Any]:
        return self._optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimiser.load_state_dict(state)
