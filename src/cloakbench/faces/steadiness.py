"""SER-FIQ: how little a face's embedding moves when dropout hides parts of its features."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field


def _several(passes: int) -> int:
    if passes == 1:
        raise ValueError("of one embedding nothing can move: take 2 or more, or 0 for none")
    return passes


Passes = Annotated[
    int,
    Field(
        ge=0,
        le=1000,
        description="embeddings per face, under dropout, that its quality is read from; 0: none "
        "(SER-FIQ takes 100)",
    ),
    AfterValidator(_several),
]


def steadiness(embeddings: np.ndarray) -> float:
    """How alike the embeddings of one face under dropout are, shape (passes, d).

    In [0, 1], 1 for embeddings that do not move; the raw score of Terhorst et al. 2020, arXiv
    2003.09373, eq. 2, without the scale that its code fits to one network. The paper divides the
    sum over pairs by passes^2 / 2; here it is the mean over pairs, as in its code.
    """
    from scipy.spatial.distance import pdist

    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return float(2 / (1 + np.exp(pdist(units).mean())))


def with_dropout(features: np.ndarray, passes: int, share: float) -> np.ndarray:
    """Features (k,) of which each pass hides another share, (passes, k); the masks are always the
    same, so that equal faces have equal values.
    """
    kept = np.random.default_rng(0).random((passes, features.size)) >= share
    return (features * kept / (1 - share)).astype(features.dtype)
