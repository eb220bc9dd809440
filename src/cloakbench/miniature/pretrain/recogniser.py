"""A small face recogniser of the training people, whose features the VAE's loss compares.

Neither does it score samples, nor does it judge them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

WIDTHS = (32, 64, 128, 192)
MARGIN, SCALE = 0.2, 16.0  # of the cosine softmax


class Recogniser(nn.Module):
    """Strided convolutions, and a classifier of the people that it was trained on."""

    def __init__(self, people: int) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, 2, 1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, 1, 1),
                nn.SiLU(),
            )
            for before, width in zip(inputs, WIDTHS, strict=True)
        )
        self.project = nn.Linear(WIDTHS[-1] * 16, 128)
        self.people = nn.Parameter(torch.randn(people, 128))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Maps of all scales, finest first, for pixels (n, 3, h, w) in [0, 1]."""
        maps = [2 * pixels - 1]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps[1:]

    def forward(self, crops: Tensor) -> Tensor:
        """Cosines (n, people) for face crops (n, 3, 64, 64) in [0, 1]."""
        embedding = self.project(self.features(crops)[-1].flatten(1))
        return linear(normalize(embedding.float()), normalize(self.people))


def recogniser_loss(recogniser: Recogniser, crops: Tensor, people: Tensor) -> Tensor:
    """Cross-entropy of cosines with a margin (CosFace, Wang et al. 2018, eq. 4)."""
    cosines = recogniser(crops)
    margins = torch.zeros_like(cosines).scatter(1, people[:, None], MARGIN)
    return cross_entropy(SCALE * (cosines - margins), people)


def perceptual_loss(recogniser: Recogniser, decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared difference of unit features, summed over scales (LPIPS, Zhang et al. 2018,
    eq. 1, without weights for channels). decoded, pixels: (n, 3, h, w) in [0, 1].
    """
    with torch.no_grad():
        wanted = recogniser.features(pixels)
    terms = [
        (normalize(a.float()) - normalize(b.float())).square().sum(1).mean()
        for a, b in zip(recogniser.features(decoded), wanted, strict=True)
    ]
    return torch.stack(terms).sum()
