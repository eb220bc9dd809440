"""What the diffusion purifications share: noise to a depth, and every ancestral step back.

A depth counts steps of the model's own ladder: after `depth` of them the signal's variance is
`alphas_cumprod[depth - 1]`, and the way back takes the steps depth - 1, ..., 1, 0, or as few of
them, evenly spaced, as a method is told to. DiffShortcut's scripts respace 1000 steps to 250 and
keep the index, so that their step 100 is 401 on the true ladder, 10 is 40, and leave out the last
(recipes 2); the presets `diffshortcut` have these steps, that is depths of 402 and 41, and the last
one, and photos on [-1, 1], where the scripts leave them on [0, 1].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.files.images import resized
from cloakbench.files.weights import WeightFile, find_folder, find_network, weights_in
from cloakbench.models.denoiser import Denoiser, PixelDenoiser
from cloakbench.purify.base import DifferentiablePurifier, Purifier
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.running.jobs import Job

Network = Callable[["Tensor"], "Tensor"]
"""Maps images (m, 3, side, side) in [-1, 1], which a pixel-space model knows, to purified ones."""

FACES = "google/ddpm-ema-celebahq-256"
MINI = "resources/mini/ddpm"


class Diffusing(Purifier):
    """Shared by purifications that noise images and walk the ladder back, resumable per step."""

    def walk(
        self, images: Tensor, depth: int, network: Denoiser, job: Job, count: int | None = None
    ) -> Tensor:
        """`Denoiser.purified`, as steps of the job; on `count` of them, if that is given."""
        noisy = Pixels(network.noised(images, depth, job.rng))
        way = list(reversed(range(depth)))
        if count is not None:
            last = depth - 1
            way = sorted({round(last - i * last / max(count - 1, 1)) for i in range(count)})[::-1]
            network = network.along(way)
        for number in job.steps(self.name, len(way), {"noisy": noisy}):
            noisy.value = network.back(noisy.value, way[number], job.rng)
        return noisy.value


class PixelDiffusing(Diffusing, DifferentiablePurifier):
    """Shared by purifications with an unconditional pixel-space DDPM.

    The references use guided-diffusion's 256 px ImageNet model, which `cloakbench convert` brings
    into diffusers' format; any DDPM in that format will do, by default one of faces at 256 px
    (Apache-2.0), which in windows of a photo sees parts of faces that it was not trained on.
    Hub ids are sought in the hub's cache and not downloaded.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gpu"})

    weights: str = Field(
        FACES, description="folder or hub id of an unconditional DDPM in diffusers' format"
    )

    def files(self) -> Iterable[WeightFile]:
        folder = find_network(self.weights, "unet", "UNet2DModel")
        return weights_in(folder, find_folder(self.weights))

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        network = PixelDenoiser.load(self.weights, job.device)
        return self.denoised(pixels.to(job.device), network, job).cpu()

    @abstractmethod
    def denoised(self, pixels: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1], on the network's device."""


class PhotoDiffusing(PixelDiffusing):
    """Shared by purifications that treat a photo once, at the model's side or in windows."""

    tiled: bool = Field(False, description="windows of the photo instead of the resized photo")

    def denoised(self, pixels: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        places = run_tiled if self.tiled else run_resized
        return places(pixels, network.side, lambda images: self.cleaned(images, network, job))

    @abstractmethod
    def cleaned(self, images: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        """Purified images (m, 3, side, side) for images in [-1, 1]."""


def run_resized(pixels: Tensor, side: int, network: Network) -> Tensor:
    """Run on photos resized to the model's side, and resize the results back."""
    cleaned = network(2 * resized(pixels, (side, side)) - 1)
    return resized((cleaned + 1) / 2, pixels.shape[-2:])


def run_tiled(pixels: Tensor, side: int, network: Network) -> Tensor:
    """Run on windows of the photos, which are enlarged where a window would not fit."""
    return resized(run_windows(enlarged(pixels, side), side, network), pixels.shape[-2:])


def enlarged(pixels: Tensor, side: int) -> Tensor:
    """Photos as they are, or enlarged until their shorter side is `side`."""
    height, width = pixels.shape[-2:]
    growth = max(1.0, side / min(height, width))
    return resized(pixels, (round(growth * height), round(growth * width)))


def run_windows(pixels: Tensor, side: int, network: Network, *, corners: bool = False) -> Tensor:
    """Run on half-overlapping windows of the photos; where windows overlap, their mean counts.

    corners: add a window composed of the photo's corners, which lie in one other window only.
    """
    import torch

    height, width = pixels.shape[-2:]
    places = windows(height, width, side, corners=corners)
    cut = torch.stack([pixels[..., rows, columns] for rows, columns in places], dim=1)
    cleaned = network(2 * cut.flatten(0, 1) - 1).unflatten(0, cut.shape[:2])
    total, count = torch.zeros_like(pixels), torch.zeros_like(pixels[:1, :1])
    for number, (rows, columns) in enumerate(places):
        total[..., rows, columns] += (cleaned[:, number] + 1) / 2
        count[..., rows, columns] += 1
    return total / count


def windows(height: int, width: int, side: int, *, corners: bool) -> list[tuple[Tensor, Tensor]]:
    """The rows (side, 1) and columns (side,) of windows that cover a photo, half overlapping.

    The last window of a row or column ends at the photo's edge. The corners' window takes half of
    its rows, and of its columns, from either end.
    """
    import torch

    def spans(length: int) -> list[Tensor]:
        starts = sorted({*range(0, length - side + 1, side // 2), length - side})
        return [torch.arange(start, start + side) for start in starts]

    def ends(length: int) -> Tensor:
        half = side // 2
        return torch.cat([torch.arange(half), torch.arange(length - side + half, length)])

    places = [(rows, columns) for rows in spans(height) for columns in spans(width)]
    if corners:
        places.append((ends(height), ends(width)))
    return [(rows[:, None], columns) for rows, columns in places]
