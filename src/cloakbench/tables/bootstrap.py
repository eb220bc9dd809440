"""Percentile bootstrap of a mean."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0


class Interval(NamedTuple):
    """A mean with a confidence interval, over `n` defined values; NaN where undefined."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: np.ndarray, seed: int = SEED) -> Interval:
    """Mean and 95 % percentile bootstrap interval (Efron 1979) from 10,000 resamples.

    Args:
        values: shape (n,); NaN entries are left out.
        seed: of the resampling; equal seeds give equal intervals.

    With fewer than two values there is no interval. With few values (say five identities) a
    percentile interval is too narrow: it says how far the values at hand disagree, not more.
    """
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if defined.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(defined.mean())
    if defined.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    means = defined[_draws(defined.size, seed)].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), defined.size)


@lru_cache(maxsize=4)
def _draws(n: int, seed: int) -> np.ndarray:
    """Indices (RESAMPLES, n); the same for every column of a table, so they are kept."""
    return np.random.default_rng(seed).integers(n, size=(RESAMPLES, n), dtype=np.int32)
