"""DreamBooth: fine-tune all of the U-Net and the text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloakbench.personalise.base import Trainer, trainers

if TYPE_CHECKING:
    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


@trainers.register("dreambooth")
class DreamBooth(Trainer):
    """Full fine-tuning with prior preservation."""

    source = "Ruiz et al. 2023, arXiv 2208.12242; settings of DiffShortcut (recipes 3.1)"
    presets = {
        "paper": {"batch_size": 1},
        "mini": {"steps": 400, "learning_rate": 2e-4, "batch_size": 2},
        "tiny": {"steps": 2},
    }

    def prepare(self, model: LatentDiffusion, job: Job) -> None:
        from cloakbench.finetune import thaw

        thaw(model, text_encoder=self.train_text_encoder)

    def save(self, model: LatentDiffusion, folder: Path) -> None:
        model.unet.save_pretrained(folder / "unet", safe_serialization=True)
        if self.train_text_encoder:
            model.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
