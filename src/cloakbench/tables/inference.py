"""What a few people's values say of all people: intervals of a mean, and tests of it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
FEWEST = 5  # values that an interval takes; fewer are printed themselves
STUDENT = 8  # values from which on the bootstrap knows of skew
RESAMPLES = 10_000
GRID = 100_000  # steps that the sizes of all values of a sign-flip test make together
SEED = 0
ROUNDING = 1e-9  # of values' size: means of few images that are alike may differ so much
UNBOUNDED = (-math.inf, math.inf)


class Interval(NamedTuple):
    """A mean with a confidence interval, over `n` defined values; NaN where undefined."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(
    values: np.ndarray, bounds: tuple[float, float] = UNBOUNDED, level: float = LEVEL
) -> Interval:
    """Mean and its confidence interval, cut at the bounds; no interval of fewer than five values.

    Args:
        values: shape (n,); NaN entries are left out.
        bounds: the least and the largest value that there could be.
        level: how often intervals hold the true mean, in (0, 1).

    Up to seven values it is Student's t interval. From eight on each end is that of Student's or of
    the bootstrap-t's, whichever is farther out (Efron and Tibshirani 1993, section 12.5; 10,000
    resamples): the bootstrap knows of skew, and nothing of values that nearly all agree. Where all
    agree neither knows an interval: then at most `1 - (tail)^(1/n)` of all people have another
    value, which limits their mean if values are bounded (Hanley and Lippman-Hand 1983, "if nothing
    goes wrong", doi:10.1001/jama.1983.03330370053031).
    """
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n = defined.size
    mean = float(defined.mean()) if n else math.nan
    if n < FEWEST:
        return Interval(mean, math.nan, math.nan, n)
    if not _varied(defined):
        return Interval(mean, *_limits(mean, n, bounds, level), n)
    least, most = _quantiles(defined, level)
    error = defined.std(ddof=1) / math.sqrt(n)
    low, high = np.clip([mean - most * error, mean - least * error], *bounds)
    return Interval(mean, float(low), float(high), n)


def _limits(value: float, n: int, bounds: tuple[float, float], level: float) -> tuple[float, float]:
    """How far the mean may be from the one value that all have; NaN if nothing bounds values."""
    if not all(map(math.isfinite, bounds)):
        return math.nan, math.nan
    others = 1 - ((1 - level) / 2) ** (1 / n)
    return value + others * (bounds[0] - value), value + others * (bounds[1] - value)


def _quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """Ends of the middle `level` of (mean - truth) / (its standard error)."""
    from scipy.stats import t

    n, tails = values.size, ((1 - level) / 2, (1 + level) / 2)
    students = t.ppf(tails, n - 1)
    if n < STUDENT:
        return float(students[0]), float(students[1])
    low, high = np.quantile(_studentised(values), tails)
    return min(float(low), float(students[0])), max(float(high), float(students[1]))


def _studentised(values: np.ndarray) -> np.ndarray:
    """(mean - truth) / (its standard error) of resamples, for which the values are the truth."""
    drawn = values[_draws(values.size)]
    drawn = drawn[_varied(drawn)]  # a value drawn n times has no standard error
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(values.size)
    return (drawn.mean(axis=1) - values.mean()) / errors


def _varied(values: np.ndarray) -> np.ndarray:
    """Whether values, along the last axis, differ by more than floats round."""
    return np.ptp(values, axis=-1) > ROUNDING * np.maximum(1, np.abs(values).max(axis=-1))


@lru_cache(maxsize=4)
def _draws(n: int) -> np.ndarray:
    """Indices (RESAMPLES, n); the same for every column of a table, so they are kept."""
    return np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n), dtype=np.int32)


def p_above(values: np.ndarray, limit: float = 0.0) -> float:
    """One-sided p of "the mean is above the limit": the sign-flip test of `values - limit`.

    values: shape (n,), one per person; NaN entries are left out. NaN for fewer than two.

    If the truth is the limit and values scatter symmetrically about it, every flip of their signs
    is as likely as what was seen; p is the share of all flips with as large a mean. Source: Fisher
    1935, The Design of Experiments, section 21.

    All flips are counted, however many people there are, by the distribution of their sums on a
    grid of `h`, the sum of the values' sizes over 100,000 (Pagano and Tritchler 1983,
    doi:10.1080/01621459.1983.10477990). Values are rounded down to it, so that p is never too
    small, and at most that of values which are lower by `h`: by 0.05 % of their mean size, for 48.
    """
    return _flips_as_large(np.asarray(values, dtype=np.float64) - limit)


def p_differs(values: np.ndarray) -> float:
    """Two-sided p of "the mean is not 0"; see `p_above`."""
    return both_sides(p_above(values), p_above(-np.asarray(values)))


def _flips_as_large(values: np.ndarray) -> float:
    """The share of the flips of signs whose sum is at least that of the values, rounded up."""
    defined = values[~np.isnan(values)]
    size = np.abs(defined).sum()
    if defined.size < 2:
        return math.nan
    if size == 0:
        return 1.0
    steps = np.floor(defined / size * GRID - 1e-6).astype(int)  # below what floats make unequal
    # As large are flips that turn no more of what is positive than they turn of what is negative.
    shares = np.zeros(1 - steps[steps < 0].sum())  # by how much is turned
    shares[0] = 1.0
    for step in np.abs(steps):
        shares[step:] += shares[: max(0, shares.size - step)]
        shares /= 2
    return float(shares.sum())


def both_sides(p: float, p_of_the_other: float) -> float:
    """Two-sided p, of the likelier of two opposite statements, of which data may choose."""
    return float(np.minimum(1, 2 * np.minimum(p, p_of_the_other)))


def p_beyond(values: np.ndarray, limit: float) -> float:
    """One-sided p of "the mean is above the limit", where values may be skewed about it.

    Cells that do nothing differ symmetrically, about 0; nothing says so of a margin. So this is the
    largest p of three: of sign flips (see `p_above`), of Student's t, and from eight values on of
    the bootstrap-t, which knows of skew (Efron and Tibshirani 1993, section 12.5).
    """
    from scipy.stats import t

    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n, flips = defined.size, p_above(defined, limit)
    if n < 2 or not _varied(defined):
        return flips
    seen = (defined.mean() - limit) / (defined.std(ddof=1) / math.sqrt(n))
    student = float(t.sf(seen, n - 1))
    if n < STUDENT:
        return max(flips, student)
    drawn = _studentised(defined)
    return max(flips, student, float(1 + np.sum(drawn >= seen)) / (1 + drawn.size))


def p_within(values: np.ndarray, margin: float) -> float:
    """Equivalence: p of "the mean is less than a margin from 0", by two one-sided tests.

    Source: Schuirmann 1987, doi:10.1007/BF01068419; here with `p_beyond`.
    """
    return max(p_beyond(values, -margin), p_beyond(-np.asarray(values), -margin))


def p_signed_ranks(values: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, shape (n,); NaN and 0 entries are left out.

    NaN for fewer than two. Source: Wilcoxon 1945, doi:10.2307/3001968.
    """
    from scipy.stats import wilcoxon

    differing = values[~np.isnan(values) & (values != 0)]
    return float(wilcoxon(differing).pvalue) if len(differing) > 1 else math.nan


def p_rising(table: np.ndarray) -> float:
    """Trend: p of "values rise from column to column", Page's trend test, exact.

    table: shape (people, columns), three columns or more; rows with NaN are left out.
    Source: Page 1963, doi:10.1080/01621459.1963.10500843. NaN for fewer than two people.
    """
    from scipy.stats import page_trend_test

    whole = table[~np.isnan(table).any(axis=1)]
    return float(page_trend_test(whole, method="exact").pvalue) if len(whole) > 1 else math.nan


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjustment of a family's p values, shape (k,); NaN entries are no tests of it.

    Rejecting what is at most alpha makes one false claim or more with probability alpha at most,
    whatever depends on what. Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted = np.asarray(p, dtype=np.float64).copy()
    tests = np.flatnonzero(~np.isnan(adjusted))
    order = tests[np.argsort(adjusted[tests], kind="stable")]
    scaled = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return adjusted
