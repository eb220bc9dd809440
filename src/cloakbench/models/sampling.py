"""Sampling: images from prompts, one generator per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, read_photo, save_photos
from cloakbench.files.outputs import copy_folder
from cloakbench.running.jobs import Job, job_seed
from cloakbench.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel


class Sampling(Settings):
    """How images are generated.

    Source of the defaults: Anti-DreamBooth's and DiffShortcut's evaluation (recipes 4).
    """

    images: int = Field(16, ge=1, le=10_000, description="images per prompt")
    steps: int = Field(100, ge=1, le=1000, description="sampler steps")
    guidance: float = Field(
        7.5, ge=1, le=100, description="classifier-free guidance scale; 1: none"
    )
    sampler: Literal["ddim", "ddpm", "pndm", "dpmpp"] = Field(
        "pndm", description="diffusers' scheduler"
    )
    batch_size: int = Field(8, ge=1, description="images generated at once")

    def generate(
        self,
        model: DiffusionModel,
        prompt: str,
        seeds: Sequence[int],
        negative_prompt: str = "",
    ) -> Tensor:
        """Generate one image per seed, whatever the batch it is in.

        Returns:
            float32 pixels (len(seeds), 3, h, w) in [0, 1].

        Raises:
            CloakBenchError: a sample is not finite.
        """
        import torch

        if model.frugal and len(seeds) > 1:
            return torch.cat(
                [self.generate(model, prompt, [seed], negative_prompt) for seed in seeds]
            )
        with model.cast_once():
            images = model.generate(
                prompt,
                [torch.Generator().manual_seed(seed) for seed in seeds],
                sampler=self.sampler,
                steps=self.steps,
                guidance=self.guidance,
                negative_prompt=negative_prompt,
            )
        if (~torch.isfinite(images)).any():
            raise CloakBenchError(
                f"a sample of '{prompt}' has NaN in its pixels: the model's training diverged, or "
                "its precision is too low. Lower the trainer's learning_rate, or set the model's "
                "precision to fp32."
            )
        return images.float().clamp(0, 1).cpu()


@dataclass(frozen=True)
class Samples:
    """The images that are wanted of a model, for every prompt.

    suffix: put after every prompt. negative_prompt: what guidance leads away from.

    Raises:
        CloakBenchError: there is a negative prompt but no guidance.
    """

    sampling: Sampling
    prompts: dict[str, str]
    suffix: str = ""
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if self.negative_prompt and self.sampling.guidance == 1:
            raise CloakBenchError(
                f"the negative prompt '{self.negative_prompt}' does nothing without guidance "
                "(guidance: 1). Raise sampling's guidance, or switch off negative_in_sampling."
            )

    def settings(self) -> dict[str, Any]:
        """What `job.json` says of them."""
        prompts = {"prompts": self.texts, "negative_prompt": self.negative_prompt}
        return self.sampling.model_dump(mode="json") | prompts

    def write(self, model: DiffusionModel, job: Job, folder: Path) -> None:
        """Generate `folder/<key>/<index>.png`; batches that are finished survive a kill."""
        texts, kept = self.texts, job.scratch or folder
        batches = [(key, indices) for key in texts for indices in self._batches()]
        looping = replace(
            job, scratch=None
        )  # no checkpoint: every image that is there is looked at
        for number in looping.steps("sample", len(batches), {}):
            key, indices = batches[number]
            names = tuple(f"{index:03d}" for index in indices)
            if all(_whole(kept / key / f"{name}.png") for name in names):
                continue
            seeds = [job_seed(job.seed, "image", key, index) for index in indices]
            pixels = self.sampling.generate(model, texts[key], seeds, self.negative_prompt)
            (kept / key).mkdir(parents=True, exist_ok=True)
            save_photos(Photos(pixels, names), kept / key)
        for key in texts:
            if kept != folder:
                copy_folder(kept / key, folder / key)  # a kill here must lose nothing

    @property
    def texts(self) -> dict[str, str]:
        """The prompts as they are sampled with, by key."""
        return {key: text + self.suffix for key, text in self.prompts.items()}

    def _batches(self) -> list[range]:
        count, size = self.sampling.images, self.sampling.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _whole(path: Path) -> bool:
    """Whether an image is there and can be decoded, as one cannot that a power cut has cut."""
    try:
        read_photo(path)
    except CloakBenchError:
        return False
    return True
