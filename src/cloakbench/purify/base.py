"""What every purification shares: photos in, photos of the same size and names out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from cloakbench.errors import CloakBenchError
from cloakbench.images import Photos
from cloakbench.registry import Method, Registry, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.jobs import Job


class Purifier(Method):
    """Maps photos to photos of the same size; a child writes `clean`.

    `needs` may name "model", the experiment's diffusion model, and "gpu", for networks of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def links(self) -> Sequence[Purifier]:
        """The purifiers that this one runs one after another: itself, unless it is a chain."""
        return [self]

    @property
    def uses(self) -> frozenset[str]:
        """What any of the links needs."""
        return frozenset().union(*(link.needs for link in self.links))

    def purify(self, photos: Photos, load: Callable[[], LatentDiffusion], job: Job) -> Photos:
        """Purify every photo.

        Returns:
            Photos with the same names and shape (n, 3, h, w), clamped to [0, 1].

        Raises:
            CloakBenchError: the method changed the shape or made values that are not finite.
        """
        import torch

        model = load() if "model" in self.uses else None
        pixels = self.clean(photos.pixels, model, job).detach().cpu()
        if pixels.shape != photos.pixels.shape or not torch.isfinite(pixels).all():
            raise CloakBenchError(
                f"purification '{self.name}' returned shape {tuple(pixels.shape)} for "
                f"{tuple(photos.pixels.shape)}, or values that are not finite. This is a bug in it."
            )
        return Photos(pixels.clamp(0, 1), photos.names)

    @abstractmethod
    def clean(self, pixels: Tensor, model: LatentDiffusion | None, job: Job) -> Tensor:
        """Purified pixels (n, 3, h, w) for pixels in [0, 1]; `model` is there if needed."""


def build_purifier(spec: Spec | str | list[Spec | str]) -> Purifier:
    """A purifier from its spec; a list of specs is a chain, first to last."""
    return purifiers.build({"method": "chain", "steps": spec} if isinstance(spec, list) else spec)


def code_of(purifier: Purifier) -> list[str]:
    """Digests of the code behind a purifier and all its links."""
    return [purifiers.digest(method.name) for method in (purifier, *purifier.links)]


purifiers: Registry[Purifier] = Registry(
    "purification",
    "cloakbench.purify",
    engine=("cloakbench.diffusion", "cloakbench.jobs"),
)
