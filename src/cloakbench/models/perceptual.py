"""Perceptual distances of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError, every, reason
from cloakbench.files.weights import check_pytorch_weights, find_weights
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from torch import Tensor

Distance = Callable[["Tensor", "Tensor"], "Tensor"]
"""Maps two batches of pixels (n, 3, h, w) in [0, 1] to n distances; symmetric, 0 for equals."""

BACKBONE, LINEAR = "lpips/vgg16-397923af.pth", "lpips/vgg.pth"
LPIPS_FILES = {
    BACKBONE: "https://download.pytorch.org/models/vgg16-397923af.pth",
    LINEAR: "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
}
"""LPIPS's two files, with their publishers' names in a folder of their own, and where they are."""
INSTEAD = "glaze and impress can do without: set perceptual to dssim"

_RELU_LAYERS = (3, 8, 15, 22, 29)  # relu1_2, 2_2, 3_3, 4_3, 5_3 among torchvision's VGG16 features
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's input on [-1, 1]
_SIGMA, _RADIUS = 1.5, 5  # px; SSIM's window, 11 px wide


def dssim(changed: Tensor, original: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2, in [0, 1]: (n, 3, h, w) twice to (n,).

    SSIM has Gaussian windows (sigma 1.5, 11 px), population covariances, and is averaged over
    channels and over the windows that lie inside the image, so sides are 11 px at least.
    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13.
    """
    means_a, means_b = _windowed(changed), _windowed(original)
    variance_a = _windowed(changed.square()) - means_a.square()
    variance_b = _windowed(original.square()) - means_b.square()
    covariance = _windowed(changed * original) - means_a * means_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * means_a * means_b + c1) / (means_a.square() + means_b.square() + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (1 - (luminance * structure).flatten(1).mean(1)) / 2


def _windowed(pixels: Tensor) -> Tensor:
    """Gaussian averages of every channel over the windows inside the image."""
    import torch

    offsets = torch.arange(-_RADIUS, _RADIUS + 1, device=pixels.device, dtype=pixels.dtype)
    window = torch.exp(-0.5 * (offsets / _SIGMA).square())
    window = window / window.sum()
    flat = pixels.flatten(0, 1).unsqueeze(1)
    rows = torch.nn.functional.conv2d(flat, window.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, window.view(1, 1, 1, -1)).unflatten(0, pixels.shape[:2])


def lpips_files() -> list[Path]:
    """LPIPS's two weight files, backbone first.

    Raises:
        CloakBenchError: one of them is missing or is another kind of file.
    """

    def found(name: str, remedy: str) -> Path:
        return check_pytorch_weights(find_weights(name, remedy), remedy)

    files = LPIPS_FILES.items()
    return every(partial(found, name, f"{source} ({INSTEAD})") for name, source in files)


@loads
def load_lpips(device: str) -> Distance:
    """LPIPS (VGG16, version 0.1), its weights frozen and on a device.

    Source: Zhang et al. 2018, arXiv:1801.03924, eq. 1; torchvision's VGG16 is the backbone.

    Raises:
        CloakBenchError: a weight file is missing or holds something else.
    """
    import torch

    backbone, linear = lpips_files()
    layers = _vgg16(backbone, device)
    weights = _linear(linear, device)
    shift, scale = (torch.tensor(v, device=device).view(3, 1, 1) for v in (_SHIFT, _SCALE))

    def directions(pixels: Tensor) -> list[Tensor]:
        """The features of the five layers, each of length 1 over its channels."""
        features, found = (2 * pixels - 1 - shift) / scale, []
        for layer in layers:
            features = layer(features)
            found.append(torch.nn.functional.normalize(features, dim=1, eps=1e-10))
        return found

    def lpips(changed: Tensor, original: Tensor) -> Tensor:
        pairs = zip(directions(changed), directions(original), weights, strict=True)
        return torch.stack(
            [((a - b).square() * weight).sum(1).flatten(1).mean(1) for a, b, weight in pairs]
        ).sum(0)

    return lpips


def _vgg16(path: Path, device: str) -> Any:
    """VGG16's features up to each of LPIPS's layers: one module per layer."""
    import torch
    from torchvision.models import vgg16

    with torch.device("meta"):  # neither memory nor draws for weights that are replaced
        features = vgg16(weights=None).features[: _RELU_LAYERS[-1] + 1]
    with _reading(path, LPIPS_FILES[BACKBONE]):
        state = torch.load(path, map_location=device, weights_only=True)
        own = {key: state[f"features.{key}"] for key in features.state_dict()}
        features.load_state_dict(own, assign=True)
    edges = itertools.pairwise([0, *(layer + 1 for layer in _RELU_LAYERS)])
    layers = torch.nn.ModuleList(features[start:end] for start, end in edges)
    return layers.requires_grad_(False).eval()


def _linear(path: Path, device: str) -> list[Tensor]:
    """One weight per channel of each layer, shapes (1, c, 1, 1)."""
    import torch

    with _reading(path, LPIPS_FILES[LINEAR]):
        state = torch.load(path, map_location=device, weights_only=True)
        return [state[f"lin{index}.model.1.weight"] for index in range(len(_RELU_LAYERS))]


@contextmanager
def _reading(path: Path, source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch raises pickle, zip, key and runtime errors here
        raise CloakBenchError(
            f"{path}: not LPIPS's weights ({reason(error)}). Get the file again from {source}."
        ) from error
