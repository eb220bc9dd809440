"""ASPL on LoRA factors: the surrogate's base weights are never copied, trained or stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cloakbench.protect.aspl import ASPL
from cloakbench.protect.base import protections

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@protections.register("aspl_lora")
class ASPLLoRA(ASPL):
    """ASPL whose surrogate trains float32 LoRA factors: the choice for smaller GPUs.

    The look-ahead f' has factors of its own; in the published script f and f' share them, so that
    clean training leaks into f (recipes 1.5).
    """

    source = "Anti-DreamBooth's aspl_lora.py, VinAIResearch/Anti-DreamBooth#29 (recipes 1.5)"
    presets = {
        "paper": {"budget": "6/255", "relative_step": 0.08},
        "mini": {"rank": 8, "learning_rate": 2e-3},
        "tiny": {"rounds": 2, "pgd_steps": 1, "training_steps": 1},
    }

    learning_rate: float = Field(5e-6, gt=0, description="AdamW's rate for the factors")
    train_text_encoder: bool = Field(False, description="LoRA on the text encoder as well")
    rank: int = Field(4, ge=1, description="rank of the factors")
    faithful: Literal[False] = Field(False, description="not used: quirks of full fine-tuning")

    @property
    def lighter(self) -> str:
        return ""

    def thaw(self, model: DiffusionModel, job: Job) -> None:
        model.add_lora(self.rank, job.rng("lora"), text_encoder=self.train_text_encoder)
