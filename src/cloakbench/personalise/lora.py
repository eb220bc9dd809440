"""DreamBooth on LoRA factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.errors import some_of
from cloakbench.personalise.base import FineTuning, trainers

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@trainers.register("lora")
class LoRA(FineTuning):
    """Trains low-rank factors on the attention blocks; saves them in diffusers' LoRA format."""

    source = "Hu et al. 2022; settings of diffusers' DreamBooth-LoRA example (recipes 3.1)"
    presets = {
        "paper": {"steps": 500, "learning_rate": 1e-4},
        "mini": {"steps": 300, "learning_rate": 2e-3, "batch_size": 2, "rank": 8},
        "tiny": {"steps": 2},
    }

    learning_rate: float = Field(1e-4, gt=0, description="AdamW's learning rate")
    train_text_encoder: bool = Field(False, description="LoRA on the text encoder as well")
    rank: int = Field(4, ge=1, description="rank of the factors")

    @property
    def lighter(self) -> str:
        return some_of({"lower its `batch_size`": self.batch_size > 1})

    def prepare(self, model: DiffusionModel, job: Job) -> None:
        model.add_lora(self.rank, job.rng("lora"), text_encoder=self.train_text_encoder)
