"""CodeFormer: faces restored from a codebook of clean ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cloakbench.errors import CloakBenchError, every, reason
from cloakbench.files.weights import WeightFile, check_pytorch_weights, find_weights, weights_in
from cloakbench.purify.align import FaceAligner, on_faces
from cloakbench.purify.base import FACELESS, PhotoPurifier, purifiers
from cloakbench.running.jobs import Pixels
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.restorer import Restorer
    from cloakbench.running.jobs import Job

Restore = Callable[["Tensor"], "tuple[Tensor, int]"]
"""Maps a photo (1, 3, h, w) in [0, 1] to the restored photo, and says how many faces it found."""

RELEASES = "https://github.com/sczhou/CodeFormer/releases"
SOURCES = f"{RELEASES} (CodeFormer's) or from `cloakbench pretrain export` (the miniature's)"


@purifiers.register("codeformer")
class CodeFormer(FaceAligner, PhotoPurifier):
    """Restores every face that RetinaFace finds, and pastes it back into the photo.

    Network and weights are S-Lab's, for non-commercial use only; the network is in an extra,
    `pip install "cloakbench[codeformer]"`. Faces are pasted back through a feathered square, hair
    and background in it restored as well, where the reference uses a parsing network's mask; photos
    keep their size where it doubles it.
    A photo without a face that is found stays as it is; the manifest says how many did (`notes`),
    and so does the table `purifiers`.

    `mini` runs the miniature's own restorer instead, a small network that this project trained on
    its synthetic portraits: it is not CodeFormer, takes the whole portrait for the face and finds
    none.
    """

    source = "Zhou et al. 2022, CodeFormer, arXiv 2206.11253; settings of DiffShortcut (recipes 2)"
    needs: ClassVar[frozenset[str]] = frozenset({"gpu"})
    presets = {
        "paper": {},
        "mini": {"weights": "resources/mini/restorer"},
        "tiny": {"weights": "tiny_restorer"},
    }

    weights: str = Field(
        "codeformer.pth",
        description="CodeFormer's weights (or a folder with the miniature's restorer): a path, or "
        "a name in $CLOAKBENCH_WEIGHTS or ~/.cache/cloakbench",
    )
    fidelity: float = Field(
        0.5, ge=0, le=1, description="w: 0 trusts the restorer most, 1 the photo"
    )

    def files(self) -> Iterable[WeightFile]:
        if self._is_restorer():
            return _restorer_files(find_weights(self.weights, SOURCES))
        path, _, detector = every([self._weights, _check_package, self.detector_file])
        return [*weights_in(path), *weights_in(detector)]

    def _is_restorer(self) -> bool:
        """Whether the weights are a folder; of what is missing, whether its name is one's."""
        try:
            return find_weights(self.weights, SOURCES).is_dir()
        except CloakBenchError:
            return not Path(self.weights).suffix

    def _weights(self) -> Path:
        return check_pytorch_weights(find_weights(self.weights, SOURCES), RELEASES)

    @property
    def has_gradient(self) -> bool:
        """The miniature's restorer has one; CodeFormer's codes are chosen, not computed."""
        return find_weights(self.weights, SOURCES).is_dir()

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        import torch

        self.check()
        path = find_weights(self.weights, SOURCES)
        with torch.random.fork_rng():  # networks draw weights, which are then replaced
            restore = self._portraits(path, job) if path.is_dir() else self._faces(path, job)
        purified, faces = Pixels(pixels.clone()), Pixels(torch.zeros(len(pixels)))
        state = {"pixels": purified, "faces": faces}
        for index in job.steps("codeformer", len(pixels), state):
            restored, faces.value[index] = restore(pixels[index : index + 1])
            purified.value[index] = restored[0]
        job.notes[FACELESS] = int((faces.value == 0).sum())
        return purified.value

    def _portraits(self, folder: Path, job: Job) -> Restore:
        """The miniature's restorer, for which a portrait is a face."""
        restorer = _restorer(folder, job.device)
        return lambda photo: (restorer(photo.to(job.device), self.fidelity), 1)

    def _faces(self, path: Path, job: Job) -> Restore:
        """CodeFormer on the faces that are found."""
        network, find = load_codeformer(path, job.device), self.face_finder(job.device)

        def restore_face(face: Tensor) -> Tensor:
            restored: Tensor = network(2 * face.to(job.device) - 1, weight=self.fidelity)[0]
            return (restored / 2 + 0.5).clamp(0, 1).to(face)

        def restore(photo: Tensor) -> tuple[Tensor, int]:
            faces = find(photo)
            return on_faces(photo, faces, restore_face), len(faces)

        return restore


def _restorer_files(folder: Path) -> Iterable[WeightFile]:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CloakBenchError(
                f"{folder}: has no {name}, so it is no restorer of the miniature. "
                "`cloakbench pretrain export` writes one."
            )
    return weights_in(folder)


def _check_package() -> Path:
    found = importlib.util.find_spec("spandrel_extra_arches")
    if found is None or found.origin is None:
        raise CloakBenchError(
            "codeformer: the package spandrel-extra-arches, which has the network, is not "
            'installed. Run `pip install "cloakbench[codeformer]"` (non-commercial use only).'
        )
    return Path(found.origin)


@cache
@loads
def _restorer(folder: Path, device: str) -> Restorer:
    from cloakbench.models.restorer import load_restorer

    return load_restorer(folder).to(device)


@cache
@loads
def load_codeformer(path: Path, device: str) -> Any:
    """CodeFormer's network: faces (n, 3, 512, 512) and images of the same shape, in [-1, 1].

    Raises:
        CloakBenchError: the file holds another network, or none.
    """
    from spandrel import ModelLoader
    from spandrel_extra_arches import EXTRA_REGISTRY

    try:
        found = ModelLoader(device, EXTRA_REGISTRY).load_from_file(path)
    except Exception as error:  # spandrel lets pickle, zip, key and shape errors through
        raise CloakBenchError(
            f"{path}: not CodeFormer's weights ({reason(error)}). Get them from {RELEASES}."
        ) from error
    if found.architecture.id != "CodeFormer":
        raise CloakBenchError(
            f"{path}: weights of {found.architecture.name}, not of CodeFormer. Get them from "
            f"{RELEASES}."
        )
    return found.model.requires_grad_(False).eval()
