"""Training of the miniature's face restorer: clean portraits from blindly degraded ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from cloakbench.miniature.pretrain.degrade import Random, grainy, recompressed
from cloakbench.models.restorer import Restorer

EDGE_WEIGHT = 0.5
SHARE = 0.7  # of the portraits, that each of the degradations befalls


def build_restorer() -> Restorer:
    """An untrained restorer of 1.4 million weights."""
    return Restorer()


def blur(pixels: Tensor, rng: Random) -> Tensor:
    """Gaussian blur with a sigma of 0.3 to 2.5 px."""
    sigma = rng.uniform(0.3, 2.5)
    return gaussian_blur(pixels, [11, 11], [sigma, sigma])


def noise(pixels: Tensor, rng: Random) -> Tensor:
    """Gaussian noise with a standard deviation of up to 20 grey levels."""
    return grainy(pixels, rng.uniform(0, 20), rng)


def shrink(pixels: Tensor, rng: Random) -> Tensor:
    """Down- and up-sampling by a factor of up to 4."""
    side = round(pixels.shape[-1] / rng.uniform(1, 4))
    small = interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return interpolate(small, pixels.shape[-2:], mode="bilinear")


def jpeg(pixels: Tensor, rng: Random) -> Tensor:
    """JPEG of quality 30 to 95."""
    return recompressed(pixels, int(rng.integers(30, 96)))


DEGRADATIONS: tuple[Callable[[Tensor, Random], Tensor], ...] = (blur, noise, shrink, jpeg)


def degraded(portrait: Tensor, rng: Random) -> Tensor:
    """A portrait (1, 3, h, w) after some of the degradations, in random order and strength.

    They are those of blind face restoration, as CodeFormer was trained (Zhou et al. 2022), with
    kernels for a quarter of its resolution; nothing about them is adversarial.
    """
    for number in rng.permutation(len(DEGRADATIONS)):
        if rng.random() < SHARE:
            portrait = DEGRADATIONS[number](portrait, rng).clamp(0, 1)
    return portrait


def restorer_loss(restorer: Restorer, clean: Tensor, spoilt: Tensor, fidelity: Tensor) -> Tensor:
    """Absolute and edge error of the restored portraits.

    clean, spoilt: (n, 3, h, w) in [0, 1]. fidelity: the weight of each portrait, (n,).
    """
    error = 2 * (restorer(spoilt, fidelity).float() - clean)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGE_WEIGHT * edges
