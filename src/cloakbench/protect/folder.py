"""Photos that another tool has protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import largest_change, to_images
from cloakbench.finished import Finished
from cloakbench.protect.base import PhotoProtection, protections
from cloakbench.settings import Levels

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.identity import Identity
    from cloakbench.running.jobs import Job


@protections.register("folder")
class Folder(Finished, PhotoProtection):
    """Photos that another tool has protected, from `path`/IDENTITY, matched by name.

    What the tool changed is measured and noted in the manifest; it is bounded only where a budget
    is given.
    """

    source = "any tool, open or closed, that writes photos"

    budget: Levels = Field(255, description="largest change that is let pass; 255/255: any")

    def perturb(self, identity: Identity, job: Job) -> Tensor:
        given = identity.instance_images
        finished = self.read(given, job)
        images = (to_images(photos.pixels) for photos in (finished, given))
        for name, photo, original in zip(given.names, *images, strict=True):
            if (change := largest_change([photo], [original])) > self.budget:
                raise CloakBenchError(
                    f"{self.path}: {name} differs by {change}/255 from its original, the budget "
                    f"is {self.budget}/255. Leave the budget out to have the change measured only."
                )
        return finished.pixels
