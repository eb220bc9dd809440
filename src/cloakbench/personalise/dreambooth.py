"""DreamBooth: fine-tune all of the U-Net and the text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloakbench.personalise.base import FineTuning, trainers

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


@trainers.register("dreambooth")
class DreamBooth(FineTuning):
    """Full fine-tuning with prior preservation.

    `small` is for GPUs of 12 GB: `paper` with the 8-bit optimiser that its scripts have, too.
    """

    source = "Ruiz et al. 2023, arXiv 2208.12242; settings of DiffShortcut (recipes 3.1)"
    presets = {
        "paper": {"batch_size": 1},
        "small": {"batch_size": 1, "eight_bit": True},
        "mini": {"steps": 400, "learning_rate": 2e-4, "batch_size": 2},
        "tiny": {"steps": 2},
    }

    def prepare(self, model: DiffusionModel, job: Job) -> None:
        model.thaw("all", text_encoder=self.train_text_encoder)
