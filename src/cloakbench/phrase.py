"""The noise phrase of contrastive decoupling learning (CDL), in prompts that are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.registry import Method

if TYPE_CHECKING:
    from cloakbench.prompts import Prompts


class NoisePhrase(Method):
    """Shared by methods that know a phrase for noise."""

    noise_phrase: str = Field("bhj noisy pattern", description="what names the noise in prompts")


class Contrastive(NoisePhrase):
    """Shared by methods that train on prompts, or look through a model that was.

    Source: Liu et al. 2024 (arXiv 2406.18944), section 5.2, with the strings of its published code
    (recipes 3.2).
    """

    phrase_in_training: bool = Field(
        False,
        description="CDL: ', <phrase>' after the prompt of photos, ', without <phrase>' after that "
        "of class images",
    )

    def naming(self, prompt: str) -> str:
        """A prompt of photos, which names the noise if that is on."""
        return f"{prompt}, {self.noise_phrase}" if self.phrase_in_training else prompt

    def instance_prompt(self, prompts: Prompts) -> str:
        """The prompt that instance images are trained on."""
        return self.naming(prompts.instance_prompt)

    def class_prompt(self, prompts: Prompts) -> str:
        """The prompt that class images are trained on (they are sampled without the suffix)."""
        suffix = f", without {self.noise_phrase}" if self.phrase_in_training else ""
        return prompts.class_prompt + suffix
