"""No training: the base model is sampled as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cloakbench.personalise.base import Trainer, trainers

if TYPE_CHECKING:
    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@trainers.register("none")
class NoTraining(Trainer):
    """The base model, which has seen no photos: the floor that absolute scores are read against.

    It knows the prompt but not the person. An experiment has one cell of it per person, not one per
    protection and purification.
    """

    source = "CloakBench; a control"
    learns: ClassVar[bool] = False

    def fit(self, model: DiffusionModel, identity: Identity, job: Job) -> None:
        pass
