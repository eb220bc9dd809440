"""What the diffusion purifications share: noise to a depth, and every ancestral step back.

A depth counts steps of the model's own ladder: after `depth` of them the signal's variance is
`alphas_cumprod[depth - 1]`, and the way back takes the steps depth - 1, ..., 1, 0. Nothing is
respaced; DiffShortcut's scripts respace 1000 steps to 250 and keep the index, so that their depth
100 is 401 on the true ladder, 10 is 40 (recipes 2).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.images import resized
from cloakbench.jobs import Draw
from cloakbench.models import load_frozen
from cloakbench.purify.base import Purifier
from cloakbench.weights import find_network

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job

Run = Callable[["Tensor"], "Tensor"]
"""Maps images (m, 3, side, side) in [-1, 1], which a pixel-space model knows, to purified ones."""

FACES = "google/ddpm-ema-celebahq-256"
MINI = "resources/mini/ddpm"
BATCH = 8  # images that a network sees at once; bounds its memory, not its results


@dataclass(frozen=True)
class Denoiser:
    """A network on its own ladder of noise.

    predict: the network's output for noisy images (n, c, h, w) and the index of a step.
    scheduler: a DDPMScheduler whose timesteps nobody has set; it knows what the network predicts.
    """

    predict: Callable[[Tensor, int], Tensor]
    scheduler: Any

    def noised(self, images: Tensor, depth: int, draw: Draw) -> Tensor:
        """Images after `depth` steps of noise: sqrt(abar) x + sqrt(1 - abar) n, n per image.

        Raises:
            CloakBenchError: the ladder is shorter.
        """
        import torch

        if depth > (longest := len(self.scheduler.alphas_cumprod)):
            raise CloakBenchError(
                f"depth = {depth}: the model's ladder has {longest} steps. Lower it."
            )
        if depth == 0:
            return images
        noise = [
            torch.randn(image.shape, generator=draw("noise", number))
            for number, image in enumerate(images)
        ]
        step = torch.tensor(depth - 1)
        return self.scheduler.add_noise(images, torch.stack(noise).to(images.device), step)

    def back(self, noisy: Tensor, step: int, draw: Draw) -> Tensor:
        """One ancestral step, from `step` + 1 steps of noise to `step` (Ho et al. 2020, alg. 2)."""
        return self._reversed(noisy, step, draw).prev_sample

    def original(self, noisy: Tensor, depth: int, draw: Draw) -> Tensor:
        """What the network takes for the clean images, in one shot."""
        return self._reversed(noisy, depth - 1, draw).pred_original_sample

    def purified(self, images: Tensor, depth: int, draw: Draw) -> Tensor:
        """There and back again."""
        noisy = self.noised(images, depth, draw)
        for step in reversed(range(depth)):
            noisy = self.back(noisy, step, draw)
        return noisy

    def _reversed(self, noisy: Tensor, step: int, draw: Draw) -> Any:
        generators = [draw("back", step, number) for number in range(len(noisy))]
        return self.scheduler.step(self.predict(noisy, step), step, noisy, generators)


@dataclass(frozen=True)
class PixelDenoiser(Denoiser):
    """An unconditional DDPM of square images of `side` px in [-1, 1]."""

    side: int

    @classmethod
    def load(cls, name: str, device: str) -> PixelDenoiser:
        """Load a folder or a hub's cached model in the format of diffusers' DDPMPipeline.

        Raises:
            CloakBenchError: it is missing, broken, or not an unconditional pixel-space model.
        """
        import torch
        from diffusers import DDPMScheduler, UNet2DModel

        from cloakbench.diffusion import one_line

        folder = find_network(name, "unet", "UNet2DModel")
        root = folder.parent if folder.name == "unet" else folder
        scheduler = root / "scheduler" if (root / "scheduler").is_dir() else root
        unet = load_network(UNet2DModel, folder, device)
        with one_line(f"{scheduler}"):
            ladder = DDPMScheduler.from_pretrained(scheduler)
        told = unet.config
        if (
            told.in_channels != 3
            or told.num_class_embeds is not None
            or not isinstance(told.sample_size, int)
        ):
            raise CloakBenchError(
                f"{name}: is no unconditional model of square RGB images. Give another DDPM."
            )

        def predict(noisy: Tensor, step: int) -> Tensor:
            return torch.cat([unet(part, step).sample for part in noisy.split(BATCH)])

        return cls(predict, ladder, told.sample_size)


def load_network(kind: Any, folder: Path, device: str) -> Any:
    """A network of diffusers with its weights in float32, frozen.

    Raises:
        CloakBenchError: its files are broken, or lack some of the weights.
    """
    from cloakbench.diffusion import one_line

    with one_line(f"{folder}"):
        return load_frozen(kind, folder, local_files_only=True).to(device)


class Diffusing(Purifier):
    """Shared by purifications that noise images and walk the ladder back, resumable per step."""

    def walk(self, images: Tensor, depth: int, network: Denoiser, job: Job) -> Tensor:
        """`Denoiser.purified`, as steps of the job."""
        from cloakbench.pgd import Pixels

        noisy = Pixels(network.noised(images, depth, job.rng))
        for step in job.steps(self.name, depth, {"noisy": noisy}):
            noisy.value = network.back(noisy.value, depth - 1 - step, job.rng)
        return noisy.value


class PixelDiffusing(Diffusing):
    """Shared by purifications with an unconditional pixel-space DDPM.

    The references use guided-diffusion's 256 px ImageNet model, which does not exist in diffusers'
    format; any DDPM in that format takes its place, by default one of faces at 256 px
    (Apache-2.0). Hub ids are sought in the hub's cache and not downloaded.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gpu"})

    weights: str = Field(
        FACES, description="folder or hub id of an unconditional DDPM in diffusers' format"
    )

    def check(self) -> None:
        find_network(self.weights, "unet", "UNet2DModel")

    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        network = PixelDenoiser.load(self.weights, job.device)
        return self.denoised(pixels.to(job.device), network, job).cpu()

    @abstractmethod
    def denoised(self, pixels: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1], on the network's device."""


class PhotoDiffusing(PixelDiffusing):
    """Shared by purifications that treat a photo once, at the model's side or in windows."""

    tiled: bool = Field(False, description="windows of the photo instead of the resized photo")

    def denoised(self, pixels: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        run = run_tiled if self.tiled else run_resized
        return run(pixels, network.side, lambda images: self.cleaned(images, network, job))

    @abstractmethod
    def cleaned(self, images: Tensor, network: PixelDenoiser, job: Job) -> Tensor:
        """Purified images (m, 3, side, side) for images in [-1, 1]."""


def run_resized(pixels: Tensor, side: int, run: Run) -> Tensor:
    """Run on photos resized to the model's side, and resize the results back."""
    cleaned = run(2 * resized(pixels, (side, side)) - 1)
    return resized((cleaned + 1) / 2, pixels.shape[-2:])


def run_tiled(pixels: Tensor, side: int, run: Run) -> Tensor:
    """Run on windows of the photos, which are enlarged where a window would not fit."""
    return resized(run_windows(enlarged(pixels, side), side, run), pixels.shape[-2:])


def enlarged(pixels: Tensor, side: int) -> Tensor:
    """Photos as they are, or enlarged until their shorter side is `side`."""
    height, width = pixels.shape[-2:]
    growth = max(1.0, side / min(height, width))
    return resized(pixels, (round(growth * height), round(growth * width)))


def run_windows(pixels: Tensor, side: int, run: Run, *, corners: bool = False) -> Tensor:
    """Run on half-overlapping windows of the photos; where windows overlap, their mean counts.

    corners: add a window composed of the photo's corners, which lie in one other window only.
    """
    import torch

    height, width = pixels.shape[-2:]
    places = windows(height, width, side, corners=corners)
    cut = torch.stack([pixels[..., rows, columns] for rows, columns in places], dim=1)
    cleaned = run(2 * cut.flatten(0, 1) - 1).unflatten(0, cut.shape[:2])
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
