"""A camera: from the light of a scene to a JPEG file with the statistics of a photograph.

A rendering is too smooth: measures of quality that learnt from photographs, such as BRISQUE, take a
faint texture on it for nature. What a photograph has beside its scene comes from the camera.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from cloakbench.miniature.synth.arrays import Floats
from cloakbench.miniature.synth.people import Shot

BLUR = 0.5  # standard deviation of the optics' blur [px of the picture]
ELECTRONS = 2400.0  # that white frees in a pixel of the picture; twice as many in good light as dim
READ_NOISE = 5.0  # standard deviation [electrons in a pixel of the picture]
QUALITY = (90, 96)  # JPEG, first and last
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4


def photograph(light: Floats, size: int, shot: Shot) -> bytes:
    """The JPEG file, (size, size) px, of linear light (k size, k size, 3) with white at 1.

    Each of the k² sites of a pixel sees one colour behind a Bayer mosaic, and counts photons and
    the electronics' own noise; bilinear demosaicing, the tone curve, and JPEG follow. The draws are
    a function of the shot.
    """
    rng = np.random.default_rng([shot.seed, shot.backdrop_seed, 7])
    factor = len(light) // size
    blurred = gaussian_filter(light, (BLUR * factor, BLUR * factor, 0), mode="nearest")
    colours = _demosaiced(*_exposed(blurred, factor, shot, rng))
    shrunk = colours.reshape(size, factor, size, factor, 3).mean((1, 3))
    file = io.BytesIO()
    picture = Image.fromarray((255 * _tone_curve(shrunk) + 0.5).astype(np.uint8))
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    picture.save(file, format="JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def _exposed(
    light: Floats, factor: int, shot: Shot, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """What each site reads behind its colour, (n, n), and which colour that is, (n, n, 3)."""
    dim = 0.5 if shot.light_word == "dim light" else 1.0
    white = ELECTRONS / factor**2 * dim * np.exp(rng.normal(0, 0.25))
    colour = np.zeros(light.shape, np.float32)
    colour[::2, ::2, 0] = colour[::2, 1::2, 1] = colour[1::2, ::2, 1] = colour[1::2, 1::2, 2] = 1
    photons = rng.poisson(white * (np.maximum(light, 0) * colour).sum(-1))
    return (photons + rng.normal(0, READ_NOISE / factor, photons.shape)) / white, colour


def _demosaiced(reading: Floats, colour: Floats) -> Floats:
    """The colours that a site did not see, as means of its neighbours', (n, n, 3)."""
    kernels = (_RED_BLUE, _GREEN, _RED_BLUE)
    channels = [convolve(reading * colour[..., c], kernels[c], mode="mirror") for c in range(3)]
    return np.stack(channels, -1)


def _tone_curve(linear: Floats) -> Floats:
    """Soften highlights, encode as sRGB in [0, 1]."""
    knee = 0.7
    over = np.maximum(linear - knee, 0)
    soft = np.clip(linear, 0, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    encoded = np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * soft ** (1 / 2.4) - 0.055)
    return np.clip(encoded, 0, 1)
