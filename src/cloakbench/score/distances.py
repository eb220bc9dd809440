"""How far protected and purified photos are from their originals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cloakbench.errors import CloakBenchError
from cloakbench.images import largest_change, photo_files, read_photo
from cloakbench.layout import Cell
from cloakbench.score.labels import PHOTO_LABELS, label
from cloakbench.score.metric import Metric, Sample
from cloakbench.score.references import NO_REFERENCES

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

COLUMNS = (*PHOTO_LABELS, "photo", "linf", "psnr", "ssim")


class Distances(NamedTuple):
    """One photo against its original.

    linf: largest change of a channel value, in grey levels (0-255).
    psnr: peak signal-to-noise ratio [dB]; infinite for equal images.
    ssim: structural similarity, at most 1.
    """

    linf: int
    psnr: float
    ssim: float


def distances(
    photos: Path, originals: Path, cell: Cell, metrics: Sequence[Metric] = ()
) -> pd.DataFrame:
    """Compare a folder of photos with their originals, matched by file stem.

    Args:
        photos: protected or purified photos.
        originals: the same photos, untouched.
        cell: labels of the rows; its trainer plays no part.
        metrics: of the photos themselves, a column each; only what reads pixels and no more.

    Returns:
        One row per photo with the columns `COLUMNS` and the metrics', sorted by name.

    Raises:
        CloakBenchError: the folders do not hold the same photos in the same sizes, or a metric
            needs faces.
    """
    import pandas as pd

    for metric in metrics:
        if not metric.judges_photos:
            raise CloakBenchError(
                f"metric '{metric.name}' is one of samples, which have faces to compare. Leave it "
                "out for photos."
            )
        metric.check()
    changed, original = _by_stem(photos), _by_stem(originals)
    if changed.keys() != original.keys():
        odd = sorted(changed.keys() ^ original.keys())
        raise CloakBenchError(
            f"{photos}: photos differ from those of {originals} ({', '.join(odd)} in only one "
            "of the two). Run the stage that wrote the folder again."
        )
    labels = label(cell, PHOTO_LABELS)
    rows = [
        {**labels, "photo": stem, **_compare(changed[stem], path, metrics)}
        for stem, path in original.items()
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, *(metric.name for metric in metrics)])


def measure(changed: Image.Image, original: Image.Image) -> Distances:
    """Distances of one RGB image to another of the same size.

    SSIM follows Wang et al. 2004 (doi:10.1109/TIP.2003.819861): Gaussian window of sigma 1.5,
    population covariance, mean over the channels.
    """
    from skimage.metrics import structural_similarity

    a, b = np.asarray(changed, np.float64), np.asarray(original, np.float64)
    error = float(np.mean((a - b) ** 2))
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    ssim = structural_similarity(
        *(a, b),
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return Distances(largest_change([changed], [original]), psnr, float(ssim))


def _compare(changed: Path, original: Path, metrics: Sequence[Metric]) -> dict[str, float]:
    a, b = read_photo(changed), read_photo(original)
    if a.size != b.size:
        raise CloakBenchError(
            f"{changed}: is {a.width}x{a.height} px but {original} is {b.width}x{b.height} px. "
            "A stage keeps the size of its photos; run it again."
        )
    sample = Sample(a, None, original=b)
    values = {metric.name: metric.score(sample, NO_REFERENCES, "") for metric in metrics}
    return {**measure(a, b)._asdict(), **values}


def _by_stem(folder: Path) -> dict[str, Path]:
    files = photo_files(folder)
    if not files:
        raise CloakBenchError(f"{folder}: no photos in this folder. Check the path.")
    return {path.stem: path for path in files}
