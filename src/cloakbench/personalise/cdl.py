"""CDL: DreamBooth in which a noise phrase takes the blame for the perturbation."""

from __future__ import annotations

from cloakbench.personalise.base import trainers
from cloakbench.personalise.dreambooth import DreamBooth


@trainers.register("cdl")
class CDL(DreamBooth):
    """Contrastive decoupling learning: DreamBooth with all three switches on."""

    source = "Liu et al. 2024, arXiv 2406.18944, section 5.2; strings of its code (recipes 3.2)"

    phrase_in_training: bool = True
    suffix_in_sampling: bool = True
    negative_in_sampling: bool = True
