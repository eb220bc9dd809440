"""DreamBooth on LoRA factors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.personalise.base import Trainer, trainers

if TYPE_CHECKING:
    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@trainers.register("lora")
class LoRA(Trainer):
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

    def prepare(self, model: LatentDiffusion, job: Job) -> None:
        from cloakbench.finetune import add_lora

        add_lora(model, self.rank, job.rng("lora"), text_encoder=self.train_text_encoder)

    def merge(self, model: LatentDiffusion) -> None:
        model.pipeline().fuse_lora()

    def save(self, model: LatentDiffusion, folder: Path) -> None:
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        def factors(network: object) -> dict:
            state = get_peft_model_state_dict(network, save_embedding_layers=False)
            return convert_state_dict_to_diffusers(state)

        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=factors(model.unet),
            text_encoder_lora_layers=(
                factors(model.text_encoder) if self.train_text_encoder else None
            ),
            safe_serialization=True,
        )
