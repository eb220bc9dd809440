"""Photos that another tool has purified."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from cloakbench.files.images import Photos
from cloakbench.finished import Finished
from cloakbench.models.loading import Loader, no_model
from cloakbench.purify.base import Purifier, purifiers
from cloakbench.running.jobs import BY_HAND, Job

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.files.layout import Cell


@purifiers.register("folder")
class Folder(Finished, Purifier):
    """Photos that another tool has purified, from `path`/PROTECTION/IDENTITY, matched by name.

    With one protection only, `path`/IDENTITY will do. What the tool changed is measured and noted
    in the manifest.
    """

    source = "any tool, open or closed, that writes photos"

    alone: ClassVar[bool] = True

    def of(self, cell: Cell) -> Self:
        own = self.path / cell.protection
        return self.model_copy(
            update={"path": (own if own.is_dir() else self.path) / cell.identity}
        )

    def purify(self, photos: Photos, load: Loader = no_model, job: Job = BY_HAND) -> Photos:
        return self.read(photos, job)

    def apply(self, pixels: Tensor, load: Loader, job: Job) -> Tensor:
        raise NotImplementedError("photos are matched by name: see `purify`")
