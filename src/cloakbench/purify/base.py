"""What every purification shares: photos in, photos of the same size and names out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import Photos, clamped
from cloakbench.models.loading import Loader, no_model
from cloakbench.registry import Method, Registry, Spec
from cloakbench.running.jobs import BY_HAND, Job
from cloakbench.running.stopwatch import working

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel


SECONDS = "seconds_per_photo"
"""What a manifest says of a purification's time, where no kill interrupted it."""
FACELESS = "photos_without_a_face"
"""What it notes of a purification of faces: how many photos stayed as they were for want of one."""


class Purifier(Method):
    """Maps photos to photos of the same size; see `PhotoPurifier` and `ModelPurifier`.

    alone: class variable, whether it is no link of a chain and nothing that a loss looks through.
    """

    alone: ClassVar[bool] = False

    def purify(self, photos: Photos, load: Loader = no_model, job: Job = BY_HAND) -> Photos:
        """Purify every photo, and note the seconds of one, without loading, in what the job took.

        load: loads the diffusion model, for methods that work with one. job: seed and device.

        Returns:
            Photos with the same names and shape (n, 3, h, w), clamped to [0, 1].

        Raises:
            CloakBenchError: the method changed the shape or made values that are not finite.
        """
        import torch

        resumed = job.scratch is not None and any(job.scratch.rglob("*.pt"))
        begun = working()
        pixels = self.apply(photos.pixels, cache(load), job).detach().cpu()
        if not resumed:
            job.took[SECONDS] = (working() - begun) / len(photos.pixels)
        if pixels.shape != photos.pixels.shape or not torch.isfinite(pixels).all():
            raise CloakBenchError(
                f"purification '{self.name}' returned shape {tuple(pixels.shape)} for "
                f"{tuple(photos.pixels.shape)}, or values that are not finite. This is a bug in it."
            )
        return Photos(pixels.clamp(0, 1), photos.names)

    @abstractmethod
    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1]; `load` loads once."""

    @property
    def has_gradient(self) -> bool:
        """Whether `apply` is differentiable with these settings, on any device."""
        return False

    def through(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        """Purified pixels as a differentiable step of a larger loss, on the pixels' device.

        Where the purification has no gradient of its own it passes straight through: that of the
        pixels is that of what comes out, as in Athalye et al. 2018, arXiv 1802.00420, section 4.1.
        `job` is for draws; nothing is kept.
        """
        drawing = replace(job, scratch=None, notes={})
        if self.has_gradient:
            return clamped(self.apply(pixels, lambda: model, drawing)).to(pixels)
        given = pixels.detach().cpu()
        with model.frozen():  # some purifications descend, and must leave no gradients in weights
            purified = self.apply(given, lambda: model, drawing).detach().clamp(0, 1).to(pixels)
        return purified + (pixels - pixels.detach())


class PhotoPurifier(Purifier):
    """Works on the photos alone, perhaps with networks of its own; a child writes `clean`."""

    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        return self.clean(pixels, job)

    @abstractmethod
    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1]."""


class DifferentiablePurifier(PhotoPurifier):
    """`clean` is differentiable, whatever the settings."""

    @property
    def has_gradient(self) -> bool:
        return True


class ModelPurifier(Purifier):
    """Works with the experiment's diffusion model; a child writes `clean`."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        return self.clean(pixels, load(), job)

    @abstractmethod
    def clean(self, pixels: Tensor, model: DiffusionModel, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1]."""


def build_purifier(spec: Spec | str | list[Spec | str]) -> Purifier:
    """A purifier from its spec; a list of specs is a chain, first to last."""
    return purifiers.build({"method": "chain", "steps": spec} if isinstance(spec, list) else spec)


def complete_specs(specs: Any) -> Any:
    """Resolve presets and defaults of a list of specs, so that it says all that is run.

    Raises:
        ValueError: one of them works alone.
    """
    if not isinstance(specs, list):
        return specs
    built = [build_purifier(spec) for spec in specs]
    if alone := [purifier.name for purifier in built if purifier.alone]:
        raise ValueError(f"'{alone[0]}' works alone, in no list. Name it by itself")
    return [purifier.spec() for purifier in built]


purifiers: Registry[Purifier] = Registry(
    "purification", "cloakbench.purify", "cloakbench.purifications"
)
