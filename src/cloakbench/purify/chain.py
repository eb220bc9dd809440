"""Several purifications, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from cloakbench.purify.base import Purifier, build_purifier, purifiers

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@purifiers.register("chain")
class Chain(Purifier):
    """Runs a list of purifications in order; in a config, a list of names or specs is a chain."""

    source = "DiffShortcut chains its defenses by name (recipes 2)"
    presets = {"tiny": {"steps": ["resize", "jpeg"]}}

    steps: list[dict[str, Any]] = Field(
        default=["resize", "jpeg"],  # type: ignore[list-item]
        min_length=1,
        description="specs of the purifications, first to last",
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _complete(cls, steps: Any) -> Any:
        """Resolve presets and defaults, so that a chain's spec says all that it runs."""
        if not isinstance(steps, list):
            return steps
        return [build_purifier(step).spec() for step in steps]

    @property
    def links(self) -> Sequence[Purifier]:
        return [link for step in self.steps for link in build_purifier(step).links]

    def check(self) -> None:
        for link in self.links:
            link.check()

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        for number, link in enumerate(self.links):
            cleaned = link.clean(pixels, model, job.part(number))
            pixels = cleaned.detach().clamp(0, 1).cpu()  # the next link may need the GPU's memory
        return pixels
