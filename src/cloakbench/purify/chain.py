"""Several purifications, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator

from cloakbench.purify.base import Purifier, build_purifier, complete_specs, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.loading import Loader
    from cloakbench.running.jobs import Job


@purifiers.register("chain")
class Chain(Purifier):
    """Runs a list of purifications in order; in a config, a list of names or specs is a chain.

    Photos are not rounded to 8 bits between links, as they are where each writes files.
    """

    source = "DiffShortcut chains its defenses by name (recipes 2)"
    encodes = True  # it has no need of its own
    presets = {"tiny": {"steps": ["resize", "jpeg"]}}

    steps: list[dict[str, Any]] = Field(
        default=["resize", "jpeg"],  # type: ignore[list-item]
        min_length=1,
        description="specs of the purifications, first to last",
    )

    _complete = field_validator("steps", mode="before")(complete_specs)

    @property
    def parts(self) -> Sequence[Purifier]:
        return [build_purifier(step) for step in self.steps]

    @property
    def links(self) -> Sequence[Purifier]:
        """What it runs, first to last, with the links of chains within it in their places."""
        return [
            link
            for part in self.parts
            for link in (part.links if isinstance(part, Chain) else [part])
        ]

    def of_class(self, noun: str) -> Self:
        return self.model_copy(update={"steps": [p.of_class(noun).spec() for p in self.parts]})

    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        for number, link in enumerate(self.links):
            cleaned = link.apply(pixels, load, job.part(number))
            pixels = cleaned.detach().clamp(0, 1).cpu()  # the next link may need the GPU's memory
        return pixels

    def through(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        for number, link in enumerate(self.links):
            pixels = link.through(pixels, model, job.part(number))
        return pixels
