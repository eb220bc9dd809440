"""ASPL: the surrogate and the perturbation are trained in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.surrogate import SurrogateProtection, denoising
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel, Latents
    from cloakbench.models.tuning import FineTuner
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job, Stateful

MakesLoss = Callable[["DiffusionModel", str, "Job"], "Loss"]
"""Makes what PGD ascends of a model as it is now, a prompt and a job's draws."""


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

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        return self.alternate(identity, model, job)

    def alternate(
        self,
        identity: Identity,
        model: DiffusionModel,
        job: Job,
        objective: MakesLoss = denoising,
    ) -> Tensor:
        """The whole of ASPL with PGD on `objective`; see `perturb`."""
        original = identity.instance_images.pixels.to(model.device)
        surrogate = self.surrogate(identity, model, job)
        perturbed = Pixels(original)
        for number in job.steps("aspl", self.rounds, {"pixels": perturbed, **surrogate.state()}):
            perturbed.value = self.alternation(
                surrogate, perturbed.value, original, number, objective
            )
        return perturbed.value

    def alternation(
        self,
        surrogate: Surrogate,
        pixels: Tensor,
        original: Tensor,
        number: int,
        objective: MakesLoss = denoising,
    ) -> Tensor:
        """Round `number`: the pixels after PGD against f', on which f has then been trained."""
        tuner, job = surrogate.tuner, surrogate.job
        with surrogate.lookahead:
            self._train(tuner, surrogate.clean, number, job, "clean")
            loss = objective(tuner.model, tuner.prompt, job)
            steps = range(number * self.pgd_steps, (number + 1) * self.pgd_steps)
            pixels = self.ascend(pixels, original, tuner.model, loss, job, steps)
        self._train(tuner, tuner.model.posterior_once(pixels), number, job, "perturbed")
        tuner.check()
        return pixels

    def surrogate(self, identity: Identity, model: DiffusionModel, job: Job) -> Surrogate:
        """The surrogate f at its start, with the clean photos as the model encodes them."""
        assert identity.surrogate_images is not None
        if self.faithful:
            model.cast_weights("bf16")
        clean = model.posterior_once(identity.surrogate_images.pixels)
        tuner = self.tuner(model, identity, job)
        return Surrogate(tuner, Lookahead(tuner), clean, job)

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        tuner = super().tuner(model, identity, job)
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


@dataclass(frozen=True)
class Surrogate:
    """f in `tuner`, f' inside `with lookahead`, the clean photos, and the draws of this model."""

    tuner: FineTuner
    lookahead: Lookahead
    clean: Latents
    job: Job

    def state(self, suffix: str = "") -> dict[str, Stateful]:
        """What a checkpoint holds of it."""
        return {f"surrogate{suffix}": self.tuner, f"lookahead{suffix}": self.lookahead}

    def optimisers(self) -> tuple[Optimizer, Optimizer]:
        """The moments of f and of f'."""
        return self.tuner.optimiser, self.lookahead.optimiser


class Lookahead:
    """f' inside `with`, f outside: the weights are put back and each keeps its own moments."""

    def __init__(self, surrogate: FineTuner) -> None:
        self._surrogate = surrogate
        self.optimiser = surrogate.fresh_optimiser()

    def __enter__(self) -> None:
        self._weights = [parameter.detach().clone() for parameter in self._surrogate.parameters]
        self._swap()

    def __exit__(self, *_: object) -> None:
        import torch

        self._swap()
        with torch.no_grad():
            for parameter, saved in zip(self._surrogate.parameters, self._weights, strict=True):
                parameter.copy_(saved)
        del self._weights  # gigabytes at full scale

    def _swap(self) -> None:
        surrogate = self._surrogate
        surrogate.optimiser, self.optimiser = self.optimiser, surrogate.optimiser

    def state_dict(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state)
