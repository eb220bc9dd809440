"""The miniature's VAE, 128 px to 16 x 16 x 4 latents, trained as Stable Diffusion's was."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from cloakbench.miniature.pretrain.recogniser import Recogniser, perceptual_loss

KL_WEIGHT = 1e-6
PERCEPTUAL_WEIGHT = 0.2
ADVERSARY_WEIGHT = 0.05


def build_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """An untrained AutoencoderKL of portraits of 128 px that halves the side three times.

    Full-resolution convolutions dominate its cost, so these are narrow.
    """
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
    )


def face_crops(pixels: Tensor, rng: Generator) -> Tensor:
    """Crops of half the side near the middle, where the faces are: (n, 3, h / 2, w / 2)."""
    side = pixels.shape[-1]
    half, reach = side // 2, side // 8
    shifts = torch.randint(-reach, reach + 1, (len(pixels), 2), generator=rng) + side // 4
    return torch.stack(
        [
            image[:, top : top + half, left : left + half]
            for image, (top, left) in zip(pixels, shifts.tolist(), strict=True)
        ]
    )


class Adversaries(nn.Module):
    """A VAE, and a critic that tells its reconstructions from portraits, patch by patch.

    The critic is Isola et al.'s (2017, arXiv 1611.07004, section 3.2.2), with fewer channels.
    """

    def __init__(self, vae: AutoencoderKL, widths: tuple[int, ...] = (24, 48, 96)) -> None:
        super().__init__()
        self.vae = vae
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(before, width, 4, 2, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def opinion(self, pixels: Tensor) -> Tensor:
        """What the critic thinks of each patch of pixels (n, 3, h, w) in [0, 1]: above 0, real."""
        opinion: Tensor = self.critic(2 * pixels - 1)
        return opinion.float()


def vae_loss(
    pair: Adversaries, recogniser: Recogniser, pixels: Tensor, rng: Generator, *, duel: bool
) -> Tensor:
    """Loss of a VAE's reconstructions of pixels (n, 3, h, w) in [0, 1], and of its critic's errors.

    Absolute error, features of a network of the training people (in LPIPS' place), a light KL and,
    in a duel, the critic (Rombach et al. 2022, arXiv 2112.10752, appendix G; hinge loss).
    """
    scaled = (2 * pixels - 1).contiguous(memory_format=torch.channels_last)
    posterior = pair.vae.encode(scaled).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    decoded = decode(pair.vae, mean + torch.exp(0.5 * logvar) * noise)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    likeness = perceptual_loss(recogniser, decoded, pixels)
    error = 2 * (decoded - pixels).abs().mean()
    loss = error + PERCEPTUAL_WEIGHT * likeness + KL_WEIGHT * divergence
    return loss + adversarial_loss(pair, decoded, pixels) if duel else loss


def adversarial_loss(pair: Adversaries, decoded: Tensor, pixels: Tensor) -> Tensor:
    """What the VAE gains by deceiving the critic, and the critic's hinge loss.

    One sum for two opponents: the first term does not reach the critic, the others not the VAE.
    """
    pair.critic.requires_grad_(False)
    deceived = -pair.opinion(decoded).mean()
    pair.critic.requires_grad_(True)
    real, fake = pair.opinion(pixels), pair.opinion(decoded.detach())
    return ADVERSARY_WEIGHT * deceived + relu(1 - real).mean() + relu(1 + fake).mean()


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Unscaled latents (n, 4, h / 8, w / 8) to float32 pixels around [0, 1], not clamped."""
    return vae.decode(latents).sample.float() / 2 + 0.5
