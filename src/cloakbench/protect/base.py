"""What every protection shares: its budget, the projection, and whole grey levels."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cloakbench.errors import CloakBenchError, advising
from cloakbench.files.images import Photos
from cloakbench.models.loading import Loader, no_model
from cloakbench.registry import Method, Registry
from cloakbench.running.jobs import BY_HAND, Job
from cloakbench.settings import Levels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel


class Protection(Method):
    """Alters instance images within an L-infinity budget; see `PhotoProtection` and
    `ModelProtection`.
    """

    effort: ClassVar[tuple[str, ...]] = ()
    """Settings whose product is the number of gradient steps that each photo gets."""

    budget: Levels = Field(11, description="largest change of a channel value [grey levels of 255]")
    share: float = Field(
        1, gt=0, le=1, description="share of the photos that are protected; the others stay clean"
    )

    @property
    def lighter(self) -> str:
        """What to do where memory runs out, as "choose ..."."""
        return ""

    @property
    def radius(self) -> float:
        """The budget in units of [0, 1]."""
        return self.budget / 255

    @property
    def steps_share(self) -> float | None:
        """Gradient steps for each photo, as a share of the method's default; None if it takes none.

        Training steps of a surrogate are not counted.
        """
        fields = type(self).model_fields
        shares = [getattr(self, name) / fields[name].default for name in self.effort]
        return math.prod(shares) if shares else None

    def protect(self, identity: Identity, load: Loader = no_model, job: Job = BY_HAND) -> Photos:
        """Perturb, project and round; the saved 8-bit images stay within the budget.

        All photos are perturbed, then those are put back that `share` leaves clean; one at least
        stays protected. The job's seed alone says which, and what is protected at one share is so
        at larger ones. Source: `poison_rate` of DiffShortcut's code (recipes 3.2).

        load: loads the diffusion model, for methods that work with one. job: seed and device.

        Returns:
            The instance images' names with pixels (n, 3, h, w) on whole grey levels.

        Raises:
            CloakBenchError: the perturbed pixels are not finite, or not of the photos' shape.
        """
        original = identity.instance_images.pixels
        given = Photos(original.clone(), identity.instance_images.names)  # methods may change them
        with advising(self.lighter):
            made = self.apply(identity._replace(instance_images=given), load, job)
        pixels = self._of_the_shape(made, original)
        self.check_finite(pixels)
        protected = round_to_levels(self.project(pixels, original))
        clean = self._clean(len(original), job)
        protected[clean] = original[clean]
        return Photos(protected, identity.instance_images.names)

    def _of_the_shape(self, made: Any, original: Tensor) -> Tensor:
        """What `apply` made, in the type of the photos, on the CPU."""
        import torch

        told = type(made).__name__
        if isinstance(made, torch.Tensor):
            if made.shape == original.shape and made.is_floating_point():
                return made.detach().cpu().to(original)
            told = f"{made.dtype} {tuple(made.shape)}"
        raise CloakBenchError(
            f"protection '{self.name}' returned {told}: floats in [0, 1] of shape "
            f"{tuple(original.shape)} are expected. This is a bug in it."
        )

    def check_finite(self, pixels: Tensor) -> None:
        """Find out whether perturbed pixels are numbers, for which this waits for the device.

        Raises:
            CloakBenchError: they are not.
        """
        if (~pixels.isfinite()).any():
            trains = "learning_rate" in type(self).model_fields
            cure = "Lower its `learning_rate`" if trains else "Look whether its weights are whole"
            raise CloakBenchError(
                f"protection '{self.name}': the perturbation became NaN. {cure}, or set the "
                "model's precision to fp32."
            )

    def _clean(self, count: int, job: Job) -> Tensor:
        """Which of so many photos stay clean."""
        import torch

        order = torch.randperm(count, generator=job.rng("share"))
        return order[: count - max(1, math.floor(self.share * count + 0.5))]

    @abstractmethod
    def apply(self, identity: Identity, load: Loader, job: Job) -> Tensor:
        """Perturbed pixels (n, 3, h, w), before projection and rounding."""

    def project(self, pixels: Tensor, original: Tensor) -> Tensor:
        """Clip to the budget around the original, then to [0, 1]."""
        return pixels.clamp(original - self.radius, original + self.radius).clamp(0, 1)


class PhotoProtection(Protection):
    """Made from the photos alone; a child writes `perturb`."""

    def apply(self, identity: Identity, load: Loader, job: Job) -> Tensor:
        return self.perturb(identity, job)

    @abstractmethod
    def perturb(self, identity: Identity, job: Job) -> Tensor:
        """Perturbed pixels (n, 3, h, w)."""


class ModelProtection(Protection):
    """Made with a diffusion model; a child writes `perturb`."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def apply(self, identity: Identity, load: Loader, job: Job) -> Tensor:
        return self.perturb(identity, load(), job)

    @abstractmethod
    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        """Perturbed pixels (n, 3, h, w)."""


def round_to_levels(pixels: Tensor) -> Tensor:
    """Round to the 256 levels of an 8-bit file."""
    return (pixels * 255).round() / 255


protections: Registry[Protection] = Registry(
    "protection", "cloakbench.protect", "cloakbench.protections"
)
