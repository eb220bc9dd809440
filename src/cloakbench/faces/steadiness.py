"""SER-FIQ: how little a face's embedding moves when dropout hides parts of its features."""

from __future__ import annotations

import numpy as np


def steadiness(embeddings: np.ndarray) -> float:
    """How alike the embeddings of one face under dropout are, shape (passes, d).

    In [0, 1], 1 for embeddings that do not move; the raw score of Terhorst et al. 2020, arXiv
    2003.09373, eq. 2, without the scale that its code fits to one network.
    """
    from scipy.spatial.distance import pdist

    passes = len(embeddings)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return float(2 / (1 + np.exp(2 / passes**2 * pdist(units).sum())))


def with_dropout(features: np.ndarray, passes: int, share: float) -> np.ndarray:
    """Features (k,) of which each pass hides another share, (passes, k); the masks are always the
    same, so that equal faces have equal values.
    """
    kept = np.random.default_rng(0).random((passes, features.size)) >= share
    return (features * kept / (1 - share)).astype(features.dtype)
