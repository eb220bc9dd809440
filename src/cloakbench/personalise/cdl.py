"""CDL: DreamBooth in which a noise phrase takes the blame for the perturbation."""

from __future__ import annotations

from pydantic import Field

from cloakbench.personalise.base import trainers
from cloakbench.personalise.dreambooth import DreamBooth


@trainers.register("cdl")
class CDL(DreamBooth):
    """Contrastive decoupling learning: DreamBooth with all three switches on."""

    source = "Liu et al. 2024, arXiv 2406.18944, section 5.2; strings of its code (recipes 3.2)"

    phrase_in_training: bool = Field(True, description="name the noise in the training prompts")
    suffix_in_sampling: bool = Field(True, description="sample with ', without <phrase>'")
    negative_in_sampling: bool = Field(True, description="guide away from the negative prompt")
