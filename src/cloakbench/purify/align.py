"""Faces cut out upright, changed by a network, and pasted back where they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from cloakbench.files.images import resized, to_images
from cloakbench.files.weights import TORCH, check_weights, find_weights
from cloakbench.registry import Method

if TYPE_CHECKING:
    from torch import Tensor

FACE_SIDE = 512  # px
LANDMARKS = np.array(
    [[193.0, 239.9], [318.9, 240.2], [256.6, 314.0], [201.3, 371.4], [313.1, 371.2]]
)
"""Where FFHQ's faces have eyes, nose and corners of the mouth, at 512 px (as in facexlib)."""
RIM = 0.1  # of the side, over which a pasted face fades into the photo
DETECTION_SIDE = 640  # px; what shorter sides are enlarged to when faces are sought (CodeFormer's)
LEAST_EYE_DISTANCE = 5.0  # px in the photo; CodeFormer's tool skips smaller and turned faces
RETINAFACE = {
    "resnet50": "detection_Resnet50_Final.pth",
    "mobile0.25": "detection_mobilenet0.25_Final.pth",
}
RELEASES = "https://github.com/xinntao/facexlib/releases"


class FaceAligner(Method):
    """Shared by methods that work on aligned faces: facexlib's RetinaFace finds them."""

    detector: str | None = Field(
        None,
        description="facexlib's RetinaFace weights: a file, or its name in $CLOAKBENCH_WEIGHTS or "
        f"~/.cache/cloakbench; null: {' or '.join(RETINAFACE.values())}",
    )
    detector_network: Literal["resnet50", "mobile0.25"] = Field(
        "resnet50", description="the detector's backbone (CodeFormer's default)"
    )
    threshold: float = Field(
        0.8, ge=0, le=1, description="least confidence of a face (CodeFormer's tool)"
    )

    def detector_file(self) -> Path:
        """The detector's weights.

        Raises:
            CloakBenchError: they are missing, or another kind of file.
        """
        path = find_weights(self.detector or RETINAFACE[self.detector_network], RELEASES)
        return check_weights(path, TORCH, RELEASES)

    def face_finder(self, device: str) -> Callable[[Tensor], list[np.ndarray]]:
        """What finds the faces in pixels (1, 3, h, w): landmarks (5, 2) of each, in pixels."""
        from cloakbench.faces.facexlib import retinaface

        network = retinaface(self.detector_network, self.detector_file(), device)

        def find(photo: Tensor) -> list[np.ndarray]:
            import torch

            size = photo.shape[-2:]
            scale = max(1.0, DETECTION_SIDE / min(size))
            [image] = to_images(resized(photo, [round(side * scale) for side in size]))
            with torch.inference_mode():
                found = network.detect_faces(image, conf_threshold=self.threshold)
            landmarks = [row[5:15].reshape(5, 2) / scale for row in found]
            return [
                points
                for points in landmarks
                if np.linalg.norm(points[0] - points[1]) >= LEAST_EYE_DISTANCE
            ]

        return find


def on_faces(photo: Tensor, faces: list[np.ndarray], network: Callable[[Tensor], Tensor]) -> Tensor:
    """A photo (1, 3, h, w) whose aligned faces (1, 3, 512, 512) went through a network.

    A face is pasted back as a square that fades over a tenth of its side: what lies outside the
    squares stays as it is. facexlib's other mask, from a parsing network, wants a third file.
    """
    for landmarks in faces:
        to_face = similarity(landmarks, LANDMARKS)
        size = photo.shape[-2:]
        face = network(warped(photo, inverse(to_face), (FACE_SIDE, FACE_SIDE)))
        mask = warped(feathered_square(FACE_SIDE).to(photo), to_face, size, outside="zeros")
        photo = photo + mask * (warped(face.to(photo), to_face, size) - photo)
    return photo


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift (2, 3) that takes points (n, 2) closest to targets."""
    # In complex numbers it is z -> a z + b, and linear in a and b.
    source, target = (p[:, 0] + 1j * p[:, 1] for p in (points, targets))
    system = np.stack([source, np.ones_like(source)], axis=1)
    (a, b), *_ = np.linalg.lstsq(system, target, rcond=None)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def inverse(transform: np.ndarray) -> np.ndarray:
    """The affine transform (2, 3) that undoes another."""
    linear = np.linalg.inv(transform[:, :2])
    return np.hstack([linear, -linear @ transform[:, 2:]])


def warped(
    pixels: Tensor, transform: np.ndarray, size: tuple[int, ...], outside: str = "reflection"
) -> Tensor:
    """The picture (1, c, *size) whose pixel at (x, y) is the one of `pixels` at transform (x, y).

    Bilinear; `outside` says what lies beyond the border: "reflection" or "zeros".
    """
    import torch

    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1)
    found = places.double() @ torch.from_numpy(transform).T
    height, width = pixels.shape[-2:]
    grid = 2 * found / torch.tensor([width - 1, height - 1]) - 1
    return torch.nn.functional.grid_sample(
        pixels, grid[None].to(pixels), padding_mode=outside, align_corners=True
    )


def feathered_square(side: int) -> Tensor:
    """A mask (1, 1, side, side): 1 inside, falling smoothly to 0 at the border."""
    import torch

    place = torch.arange(side) / (side - 1)
    ramp = (torch.minimum(place, 1 - place) / RIM).clamp(max=1)
    smooth = ramp.square() * (3 - 2 * ramp)
    return (smooth[:, None] * smooth)[None, None]
