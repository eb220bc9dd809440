"""The miniature's VAE, 128 px to 16 x 16 x 4 latents, trained as Stable Diffusion's was."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from cloakbench.miniature.pretrain.recogniser import Recogniser, perceptual_loss

KL_WEIGHT = 1e-6
PERCEPTUAL_WEIGHT = 0.2  # of a sum over scales: about three times the error, as there
ADVERSARY_WEIGHT = 0.1  # of the other losses' gradient at the decoder's last layer


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

    The critic is Isola et al.'s (2017, arXiv 1611.07004, section 3.2.2 and appendix 6.1.2), with
    fewer channels; like theirs it has no norm before its second layer, and so sees colours.
    """

    def __init__(self, vae: AutoencoderKL, widths: tuple[int, ...] = (24, 48, 96)) -> None:
        super().__init__()
        self.vae = vae
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, width in pairwise(widths):
            layers += [nn.Conv2d(before, width, 4, 2, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def opinion(self, pixels: Tensor) -> Tensor:
        """What the critic thinks of each patch of pixels (n, 3, h, w) in [0, 1]: above 0, real."""
        opinion: Tensor = self.critic(2 * pixels - 1)
        return opinion.float()

    def deceit(self, decoded: Tensor) -> Tensor:
        """The VAE's loss of being found out; the critic learns nothing from it."""
        self.critic.requires_grad_(False)
        loss = -self.opinion(decoded).mean()
        self.critic.requires_grad_(True)
        return loss

    def mistakes(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """The critic's hinge loss; the VAE learns nothing from it."""
        real, fake = self.opinion(pixels), self.opinion(decoded.detach())
        return relu(1 - real).mean() + relu(1 + fake).mean()


def vae_loss(
    pair: Adversaries,
    recogniser: Recogniser,
    pixels: Tensor,
    rng: Generator,
    *,
    duel: bool,
    heard: bool,
) -> Tensor:
    """Loss of a VAE on pixels (n, 3, h, w) in [0, 1] and, in a duel, of its critic.

    heard: whether the VAE minds what the critic says, which has to have learnt something first:
    the balance makes noise as loud as a reason.

    Absolute error, features of a network of the training people (in LPIPS' place), a light KL, and
    the critic with a weight that makes its gradient a share of the others' (Rombach et al. 2022,
    arXiv 2112.10752, appendix G; Esser et al. 2021, arXiv 2012.09841, eq. 7).
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
    if not duel:
        return loss
    mistakes = pair.mistakes(decoded, pixels)
    if not heard:
        return loss + mistakes
    deceit = pair.deceit(decoded)
    weight = ADVERSARY_WEIGHT * balance(loss, deceit, pair.vae.decoder.conv_out.weight)
    return loss + weight * deceit + mistakes


def balance(loss: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """What makes the other loss's gradient in some weights as long as the first's."""
    first, second = (
        torch.autograd.grad(each, weights, retain_graph=True)[0].norm() for each in (loss, other)
    )
    return (first / (second + 1e-4)).clamp(max=1e4)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Unscaled latents (n, 4, h / 8, w / 8) to float32 pixels around [0, 1], not clamped."""
    return vae.decode(latents).sample.float() / 2 + 0.5
