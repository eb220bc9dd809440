"""The base models: sizes of their networks, and the order of words in their captions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A base model in Stable Diffusion's layout at 128 px.

    width: of CLIP's towers. vae, unet: channels of each level, finest first. backwards: whether
    clauses stand in the reverse order, those about quality first.
    """

    width: int
    vae: tuple[int, ...]
    unet: tuple[int, ...]
    backwards: bool = False

    def ordered(self, caption: str) -> str:
        """A caption with its clauses in this model's order; its subject stays first."""
        subject, *clauses = caption.split(", ")
        return ", ".join([subject, *(reversed(clauses) if self.backwards else clauses)])


RECIPES = {
    "first": Recipe(width=128, vae=(16, 32, 64, 128), unet=(64, 128, 160)),
    "second": Recipe(width=96, vae=(16, 24, 48, 96), unet=(48, 96, 144), backwards=True),
}
"""The one that is studied, and another for ensembles, transfer, and a VAE that nobody attacked."""
