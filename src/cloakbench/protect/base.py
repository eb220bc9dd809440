"""What every protection shares: its budget, the projection, and whole grey levels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.images import Photos
from cloakbench.registry import Method, Registry
from cloakbench.units import Levels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.diffusion import LatentDiffusion
    from cloakbench.identity import Identity
    from cloakbench.jobs import Job


class Protection(Method):
    """Alters instance images within an L-infinity budget; a child writes `perturb`.

    `needs` names what `perturb` can use: "model", "surrogate_images", "class_images".
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    budget: Levels = Field(11, description="largest change of a channel value [grey levels of 255]")

    @property
    def radius(self) -> float:
        """The budget in units of [0, 1]."""
        return self.budget / 255

    @property
    def uses(self) -> frozenset[str]:
        """What of `needs` these settings use: a prior without weight has no class images."""
        unused = {"class_images"} if getattr(self, "prior_weight", None) == 0 else set()
        return self.needs - unused

    def protect(self, identity: Identity, load: Callable[[], LatentDiffusion], job: Job) -> Photos:
        """Perturb, project and round; the saved 8-bit images stay within the budget.

        Returns:
            The instance images' names with pixels (n, 3, h, w) on whole grey levels.

        Raises:
            CloakBenchError: the perturbed pixels are not finite.
        """
        import torch

        original = identity.instance_images.pixels
        model = load() if "model" in self.needs else None
        pixels = self.perturb(identity, model, job).detach().cpu()
        if not torch.isfinite(pixels).all():
            raise CloakBenchError(
                f"protection '{self.name}': the perturbation became NaN. Lower its learning "
                "rate or step size."
            )
        return Photos(
            round_to_levels(self.project(pixels, original)), identity.instance_images.names
        )

    @abstractmethod
    def perturb(self, identity: Identity, model: LatentDiffusion | None, job: Job) -> Tensor:
        """Perturbed pixels (n, 3, h, w); `model` is loaded if `needs` has "model"."""

    def project(self, pixels: Tensor, original: Tensor) -> Tensor:
        """Clip to the budget around the original, then to [0, 1]."""
        return pixels.clamp(original - self.radius, original + self.radius).clamp(0, 1)


def round_to_levels(pixels: Tensor) -> Tensor:
    """Round to the 256 levels of an 8-bit file."""
    return (pixels * 255).round() / 255


protections: Registry[Protection] = Registry(
    "protection",
    "cloakbench.protect",
    engine=("cloakbench.diffusion", "cloakbench.jobs"),
)
