"""Prior preservation: class images that keep training from forgetting what the class looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloakbench.registry import Method

if TYPE_CHECKING:
    from cloakbench.files.images import Photos
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import Prior


class PriorPreservation(Method):
    """Shared by methods with a setting `prior_weight` that fine-tune on class images, too.

    Source: Ruiz et al. 2023, DreamBooth, arXiv 2208.12242, section 3.2.
    """

    if TYPE_CHECKING:
        prior_weight: float  # each stage has its own default, among its other settings

    @property
    def uses(self) -> frozenset[str]:
        """Without weight, class images are not used."""
        return super().uses - ({"class_images"} if self.prior_weight == 0 else set())

    def prior(
        self, model: DiffusionModel, class_images: Photos | None, prompt: str
    ) -> Prior | None:
        """The class images as the model encodes them; None without weight or images."""
        from cloakbench.models.tuning import Prior

        if self.prior_weight == 0 or class_images is None:
            return None
        return Prior(model.posterior_once(class_images.pixels), prompt, self.prior_weight)
