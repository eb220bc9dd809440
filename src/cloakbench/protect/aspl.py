"""ASPL: the surrogate and the perturbation are trained in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.surrogate import Denoising, SurrogateProtection
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

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
    fine-tunes f on the perturbed photos. f' has a new optimiser in every round, as in the published
    script; f keeps its own. `faithful` repeats three quirks of that script (recipes 1.3): bfloat16
    weights, a new optimiser for every call, and the same first images each time.
    """

    source = "Le et al. 2023, Anti-DreamBooth, arXiv 2303.15433, section 4.3"
    presets = {
        "paper": {"budget": "6/255", "faithful": True},
        "mini": {"learning_rate": 2e-4},
        "tiny": {"rounds": 2, "pgd_steps": 1, "training_steps": 1},
    }

    effort: ClassVar[tuple[str, ...]] = ("rounds", "pgd_steps")

    rounds: int = Field(50, ge=1, description="alternations")
    training_steps: int = Field(3, ge=0, description="fine-tuning steps on each side of a round")
    pgd_steps: int = Field(6, ge=1, description="PGD steps in a round")
    faithful: bool = Field(False, description="repeat the published script's quirks")

    @property
    def sparing(self) -> dict[str, bool]:
        return {"set its `faithful`": not self.faithful}

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        return self.alternate(identity, model, job)

    def alternate(
        self,
        identity: Identity,
        model: DiffusionModel,
        job: Job,
        objective: MakesLoss = Denoising,
    ) -> Tensor:
        """The whole of ASPL with PGD on `objective`; see `perturb`."""
        original = identity.instance_images.pixels.to(model.device)
        surrogate = self.surrogate(identity, model, job)
        perturbed = Pixels(original)
        state: dict[str, Stateful] = {"pixels": perturbed, "surrogate": surrogate.tuner}
        for number in job.steps("aspl", self.rounds, state):
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
        objective: MakesLoss = Denoising,
    ) -> Tensor:
        """Round `number`: the pixels after PGD against f', on which f has then been trained."""
        tuner, job = surrogate.tuner, surrogate.job
        with looking_ahead(tuner):
            self._train(tuner, surrogate.clean, number, job, "clean")
            tuner.forget()  # f' is trained no more
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
        return Surrogate(tuner, clean, job)

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
            images = images[: self.training_steps]
        for step in range(number * self.training_steps, (number + 1) * self.training_steps):
            tuner.step(images, step, partial(job.rng, side))
        if self.faithful:
            tuner.forget()


@dataclass(frozen=True)
class Surrogate:
    """f in `tuner`, the clean photos, and the draws of this model."""

    tuner: FineTuner
    clean: Latents
    job: Job


@contextmanager
def looking_ahead(tuner: FineTuner) -> Iterator[None]:
    """Have f' inside, with a new optimiser, and f afterwards, with its weights and moments.

    In a frugal run f's moments wait on the CPU: gigabytes at full scale.
    """
    import torch

    weights = [parameter.detach().clone() for parameter in tuner.parameters]
    optimiser = tuner.optimiser
    if tuner.model.frugal:
        tuner.send_moments("cpu")
    tuner.forget()
    try:
        yield
    finally:
        tuner.optimiser = optimiser
        with torch.no_grad():
            for parameter, saved in zip(tuner.parameters, weights, strict=True):
                parameter.copy_(saved)
        del weights
        tuner.send_moments(tuner.model.device)
