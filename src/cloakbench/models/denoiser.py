"""Denoisers: a network on its own ladder of noise, and unconditional DDPMs of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from cloakbench.errors import CloakBenchError
from cloakbench.files.weights import find_network
from cloakbench.models.loading import load_frozen, one_line
from cloakbench.running.jobs import Draw
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from torch import Tensor

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
        """One ancestral step, from `step` + 1 steps of noise to `step` (Ho et al. 2020, alg. 2).

        A gradient through many of them keeps no activations.
        """
        from cloakbench.models.gradients import recomputed

        return recomputed(lambda noisy: self._reversed(noisy, step, draw).prev_sample, noisy)

    def along(self, steps: Sequence[int]) -> Self:
        """The same on some steps of the ladder, which `back` then goes from one to the next."""
        scheduler = self.scheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(timesteps=[*steps])
        return replace(self, scheduler=scheduler)

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
    @cache
    @loads
    def load(cls, name: str, device: str) -> PixelDenoiser:
        """Load a folder or a hub's cached model in the format of diffusers' DDPMPipeline.

        Raises:
            CloakBenchError: it is missing, broken, or not an unconditional pixel-space model.
        """
        from diffusers import DDPMScheduler, UNet2DModel

        folder = find_network(name, "unet", "UNet2DModel")
        root = folder.parent if folder.name == "unet" else folder
        scheduler = root / "scheduler" if (root / "scheduler").is_dir() else root
        with one_line(f"{folder}"):
            unet = load_frozen(UNet2DModel, folder, local_files_only=True).to(device)
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

        return cls.of(unet, ladder)

    @classmethod
    def of(cls, unet: Any, ladder: Any) -> Self:
        """A UNet2DModel on the ladder of a DDPMScheduler."""
        import torch

        def predict(noisy: Tensor, step: int) -> Tensor:
            return torch.cat([unet(part, step).sample for part in noisy.split(BATCH)])

        return cls(predict, ladder, unet.config.sample_size)
