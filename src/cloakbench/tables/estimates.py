"""A metric's mean over people or images, of one cell or of a sum and difference of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cloakbench.score.base import SetMetric, metrics
from cloakbench.tables.inference import FEWEST, UNBOUNDED, mean_interval, p_differs, p_signed_ranks

Term = tuple[float, pd.DataFrame]
"""A weight or sign, and values by unit (people or images; the index) and metric (columns)."""


def estimates(terms: Sequence[Term]) -> dict[str, Any]:
    """Columns of a row: for each metric its mean, and what stands beside it.

    That is `_low`, `_high`: the 95 % interval; `_n`: units that have a value; `_values`: those
    values where they are too few for an interval; and where some have none, `_least` and `_most`:
    the mean if they had what `Metric.hidden` says.
    """
    row: dict[str, Any] = {}
    for name in terms[0][1].columns:
        row |= _of_metric(name, [(sign, frame[name]) for sign, frame in terms])
    return row


def _of_metric(name: str, terms: list[tuple[float, pd.Series]]) -> dict[str, Any]:
    metric = metrics[name]
    found = total(terms)
    of_sets = issubclass(metric, SetMetric)
    if of_sets and "seed" in found.index.names:  # the rows of a set repeat one value
        found = found.groupby(level="seed").first()
    values = found.to_numpy(dtype=float)
    bounds = UNBOUNDED if of_sets else _range(terms, metric.bounds)
    mean, low, high, n = mean_interval(values, bounds)
    few = " ".join(f"{v:.6g}" for v in values if not np.isnan(v)) if n < FEWEST else ""
    row: dict[str, Any] = {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
    row[f"{name}_values"] = few
    if metric.hidden is not None:
        ends = hidden_means(terms, metric.hidden) if n < len(values) else (math.nan, math.nan)
        row |= dict(zip((f"{name}_least", f"{name}_most"), ends, strict=True))
    return row


def paired_tests(terms: Sequence[Term], over: str) -> dict[str, float]:
    """Two-sided tests of each metric: `_p`, the exact sign-flip test, `_wilcoxon`, signed ranks.

    NaN over images, since those of one person are no sample of people.
    """
    row: dict[str, float] = {}
    for name in terms[0][1].columns:
        values = total([(sign, frame[name]) for sign, frame in terms]).to_numpy(dtype=float)
        tested = values if over == "identities" else values[:0]
        row |= {f"{name}_p": p_differs(tested), f"{name}_wilcoxon": p_signed_ranks(tested)}
    return row


def total(terms: Sequence[tuple[float, pd.Series]]) -> pd.Series:
    """The weighted sum of one metric's values by unit; NaN where one that counts is."""
    (first, values), *others = [term for term in terms if term[0]]
    made = first * values
    for sign, more in others:
        made = made + sign * more
    return made


def _range(
    terms: Sequence[tuple[float, pd.Series]], bounds: tuple[float, float]
) -> tuple[float, float]:
    """The least and the largest weighted sum of values between the bounds."""
    ends = [sorted(sign * bound for bound in bounds) for sign, _ in terms if sign]
    return sum(end[0] for end in ends), sum(end[1] for end in ends)


def hidden_means(
    terms: Sequence[tuple[float, pd.Series]], hidden: tuple[float, float]
) -> tuple[float, float]:
    """The mean if all that is missing had the value that lowers it most, or raises it most."""
    low, high = hidden
    least = [(sign, values.fillna(low if sign > 0 else high)) for sign, values in terms]
    most = [(sign, values.fillna(high if sign > 0 else low)) for sign, values in terms]
    return float(total(least).mean()), float(total(most).mean())
