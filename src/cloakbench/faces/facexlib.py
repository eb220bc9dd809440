"""facexlib's RetinaFace and ArcFace networks, from two .pth files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from cloakbench.errors import CloakBenchError, every, first_line
from cloakbench.faces.base import Face, FaceBackend, backends
from cloakbench.faces.steadiness import Passes, steadiness, with_dropout
from cloakbench.files.weights import TORCH, WeightFile, check_weights, weights_in
from cloakbench.running.stopwatch import loads
from cloakbench.settings import UserPath

WEIGHTS = "https://github.com/xinntao/facexlib/releases"
CROP = 112  # px, the side of an aligned face


@backends.register("facexlib")
class FaceXLib(FaceBackend):
    """RetinaFace detector and ArcFace IR-SE50 embeddings (512-d).

    The embeddings of this network are normalised, so a reference mean weighs its photos alike.
    """

    source: ClassVar[str] = (
        "Deng et al. 2019, RetinaFace, arXiv:1905.00641; "
        "Deng et al. 2019, ArcFace, arXiv:1801.07698; facexlib"
    )

    detector: UserPath = Field(
        description="facexlib's RetinaFace weights: detection_Resnet50_Final.pth or "
        "detection_mobilenet0.25_Final.pth (retrainings with other anchor sizes load as well, "
        "and misplace the boxes)"
    )
    recogniser: UserPath = Field(description="ArcFace weights: recognition_arcface_ir_se50.pth")
    network: Literal["resnet50", "mobile0.25"] = Field(
        "resnet50", description="the detector's backbone (facexlib's default)"
    )
    threshold: float = Field(
        0.9, ge=0, le=1, description="least confidence of a face (Anti-DreamBooth's RetinaFace)"
    )
    channels: Literal["rgb", "bgr"] = Field(
        "rgb",
        description="order in which the recogniser reads colours, which its file does not say; "
        "`cloakbench faces` tells the two apart: the right one has the higher accuracy",
    )
    dropout_passes: Passes = 0

    def files(self) -> Iterable[WeightFile]:
        paths = self.detector, self.recogniser
        found = every(partial(check_weights, path, TORCH, WEIGHTS) for path in paths)
        return [each for path in found for each in weights_in(path)]

    def detect(self, pixels: np.ndarray) -> list[Face]:
        import torch

        networks = _networks(self)
        image = Image.fromarray(pixels)
        with torch.inference_mode():
            found = networks.detector.detect_faces(image, conf_threshold=self.threshold)
            return [self._face(pixels, row, networks) for row in found]

    def _face(self, pixels: np.ndarray, row: np.ndarray, networks: _Networks) -> Face:
        """row: box (4), confidence, landmarks (5 x 2)."""
        import torch

        crop = _align(pixels, row[5:15].reshape(5, 2))
        ordered = np.ascontiguousarray(crop[..., ::-1] if self.channels == "bgr" else crop)
        levels = torch.from_numpy(ordered).permute(2, 0, 1)[None].float()
        network = networks.recogniser
        features = network.body(network.input_layer(levels / 127.5 - 1))  # in [-1, 1]
        embedding = torch.nn.functional.normalize(network.output_layer(features))[0]
        passes = self.dropout_passes
        steady = quality(network.output_layer, features, passes) if passes else math.nan
        left, top, right, bottom = row[:4].tolist()
        return Face((left, top, right, bottom), float(row[4]), embedding.numpy(), steady)


class _Networks(NamedTuple):
    detector: Any
    recogniser: Any


@cache
def _networks(backend: FaceXLib) -> _Networks:
    backend.check()
    return _Networks(retinaface(backend.network, backend.detector), _recogniser(backend.recogniser))


@cache
@loads
def retinaface(backbone: str, path: Path, device: str = "cpu") -> Any:
    """The face detector with its weights, ready on a device.

    Raises:
        CloakBenchError: the weights are not those of a RetinaFace with this backbone.
    """
    import warnings

    import torch
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings():  # torchvision deprecates `pretrained=False`, facexlib's call
        warnings.simplefilter("ignore", UserWarning)
        network = RetinaFace(network_name=backbone, device=torch.device(device))
    return _load(network, path).to(device)


def _recogniser(path: Path) -> Any:
    from facexlib.recognition.arcface_arch import Backbone

    return _load(Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se"), path)


def _load(network: Any, path: Path) -> Any:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stripped = {name.removeprefix("module."): value for name, value in state.items()}
        network.load_state_dict(stripped, strict=True)
    except Exception as error:  # torch raises pickle, zip, key and runtime errors here
        raise CloakBenchError(
            f"{path}: not the weights of facexlib's {type(network).__name__} "
            f"({first_line(error)}). Get them from {WEIGHTS}."
        ) from error
    return network.eval()


def quality(head: Any, features: Any, passes: int) -> float:
    """SER-FIQ of a face by the recogniser's own dropout; see `steadiness`.

    head: batch norm, dropout, flattening, linear layer, batch norm, in evaluation mode.
    features: shape (1, channels, h, w).
    """
    import torch

    normalise, dropout, flatten, *layers = head
    flat = flatten(normalise(features))[0].numpy()
    embeddings = torch.from_numpy(with_dropout(flat, passes, dropout.p))
    for layer in layers:
        embeddings = layer(embeddings)
    return steadiness(embeddings.numpy())


def _align(pixels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    from facexlib.detection.align_trans import get_reference_facial_points, warp_and_crop_face

    reference = get_reference_facial_points(default_square=True)
    return np.asarray(warp_and_crop_face(pixels, landmarks, reference, crop_size=(CROP, CROP)))
