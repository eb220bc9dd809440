"""Verdicts on claims: hold, are contradicted, or undecided, by the people of an experiment."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cloakbench.experiment.claims import Claim, Ledger, labels_of
from cloakbench.score.base import metrics
from cloakbench.tables.inference import (
    both_sides,
    holm,
    mean_interval,
    p_above,
    p_beyond,
    p_rising,
    p_signed_ranks,
    p_within,
)
from cloakbench.tables.summary import aggregate, rows_of

POWER = 0.9  # how likely the people that are said to be needed decide a claim
MOST = 10_000  # people; more are as good as none
CELLS = "; "  # between the cells of a claim


class Evidence(NamedTuple):
    """What people say of a claim.

    p, p_against: one-sided, of the claim and of its opposite.
    differences: each person's, of the comparison that is least favourable to the claim.
    scores, borders: what each person says for or against it, of each comparison that has to speak
        for it, and means that would say nothing.
    tries: how many comparisons there were to choose the one that speaks from.
    """

    p: float
    p_against: float
    differences: np.ndarray
    scores: Sequence[np.ndarray]
    borders: tuple[float, ...]
    tries: int = 1


def verdicts(
    ledger: Ledger, images: pd.DataFrame, distances: pd.DataFrame, seeds: Collection[str]
) -> pd.DataFrame:
    """A row per claim, in their order.

    images, distances: rows of samples and of photos, as `Tables` has them; of what has not run
        there are none.
    seeds: those of the experiment; people count who have all of them in all cells of a claim.

    Columns: `family`, `experiment`, `level`, `claim`, `source`, `test`, `endpoint`, `margin`;
    `verdict`: "holds", "contradicted" or "undecided", by Holm's procedure at the ledger's level;
    `n` people, of those that were `planned`; `effect`, the mean of the first cell less that of the
    other (or the last less the first, of a trend; of several the one least favourable to the
    claim), with `low` and `high` of its interval at one less the level; `p`, two-sided; `p_holm`,
    for which claims that have not run count, too; `p_wilcoxon`, of signed ranks of the differences
    that the effect is the mean of, where these are all that is tested; `people`: about how many
    would decide the claim if all were like these; `cells`, as the claim has them; and `person`,
    whose difference is nearest to the effect.
    """
    rows = []
    for claim in ledger.claims:
        values = _values(claim, distances if claim.of_photos else images, seeds)
        rows.append(_row(claim, values, ledger))
    frame = pd.DataFrame(rows)
    family = holm(frame["p"].fillna(1).to_numpy(dtype=float))
    frame["p_holm"] = np.where(frame["p"].isna(), np.nan, family)
    decided = frame["p_holm"] <= ledger.level
    frame["verdict"] = np.where(decided, frame["verdict"], "undecided")
    frame.loc[decided, "people"] = np.nan
    return frame


def _values(claim: Claim, frame: pd.DataFrame, seeds: Collection[str]) -> pd.DataFrame:
    """People's means of the endpoint (rows) in the claim's cells (columns); whole rows only."""
    if frame.empty:
        return pd.DataFrame(columns=[*claim.cells], dtype=float)
    columns = {cell: _by_seed(claim, rows_of(frame, labels_of(cell))) for cell in claim.cells}
    found = pd.DataFrame(columns).replace([math.inf, -math.inf], math.nan).dropna()
    people = found.groupby("identity")
    return people.mean()[people.size() == len(seeds)]


def _by_seed(claim: Claim, rows: pd.DataFrame) -> pd.Series:
    """The endpoint by person and seed, as tables of samples or of photos have it."""
    by = ["identity", "seed"]
    if claim.of_photos:
        return aggregate(rows, by)[claim.endpoint]
    return rows.groupby(by)[claim.endpoint].mean()


def _row(claim: Claim, values: pd.DataFrame, ledger: Ledger) -> dict[str, Any]:
    told = ("claim", "source", "test", "endpoint", "margin")
    found, level = _weigh(claim, values.to_numpy().T), ledger.level / len(ledger.claims)
    low, high = metrics[claim.endpoint].bounds
    effect = mean_interval(found.differences, (low - high, high - low), 1 - ledger.level)
    ranked = found.differences if claim.test in ("lower", "higher") else found.differences[:0]
    return {
        "family": ledger.family,
        "experiment": ledger.experiment,
        "level": ledger.level,
        **{key: getattr(claim, key) for key in told},
        "verdict": "holds" if found.p <= found.p_against else "contradicted",
        "n": effect.n,
        "planned": ledger.people,
        **dict(zip(("effect", "low", "high"), effect[:3], strict=True)),
        "p": both_sides(found.p, found.p_against),
        "p_holm": math.nan,
        "p_wilcoxon": p_signed_ranks(ranked),
        "people": people_needed(found.scores, found.borders, level / found.tries),
        "cells": CELLS.join(claim.cells),
        "person": _nearest(found.differences, [*values.index]),
    }


def _nearest(differences: np.ndarray, people: Sequence[str]) -> str | None:
    """Whose difference is nearest to the mean of all."""
    if not differences.size:
        return None
    return str(people[int(np.argmin(np.abs(differences - differences.mean())))])


def _weigh(claim: Claim, cells: np.ndarray) -> Evidence:
    """The evidence of values (cells, people)."""
    first, *others = cells
    if claim.test == "trend":
        return _trend(cells)
    differences = [first - other for other in others]
    if claim.test == "level":
        return _level(differences, claim.margin)
    sign = 1 if claim.test == "higher" else -1
    p, against = zip(*((p_above(sign * d), p_above(-sign * d)) for d in differences), strict=True)
    means = [-sign * each.sum() for each in differences]  # where p are the same, the least effect
    worst = differences[max(range(len(p)), key=lambda i: (p[i], means[i]))]
    speaks = differences if sign * worst.sum() > 0 else [worst]  # one is enough to contradict
    return Evidence(max(p), _one_of(against), worst, speaks, (0.0,), _tries(differences, speaks))


def _level(differences: list[np.ndarray], margin: float) -> Evidence:
    """All are within the margin, or one is beyond it."""
    p = [p_within(each, margin) for each in differences]
    against = [min(p_beyond(each, margin), p_beyond(-each, margin)) for each in differences]
    worst = max(differences, key=lambda each: abs(each.mean()) if each.size else 0.0)
    speaks = differences if worst.size and abs(worst.mean()) < margin else [worst]
    tries = _tries(differences, speaks)
    return Evidence(max(p), _one_of(against), worst, speaks, (-margin, margin), tries)


def _tries(differences: Sequence[np.ndarray], speaks: Sequence[np.ndarray]) -> int:
    """Where one of several comparisons speaks, it was chosen from so many; see `_one_of`."""
    return len(differences) if len(speaks) < len(differences) else 1


def _one_of(p: tuple[float, ...] | list[float]) -> float:
    """P of "one of these holds", by Bonferroni's correction."""
    return min(1.0, len(p) * min(p)) if not math.isnan(min(p)) else math.nan


def _trend(cells: np.ndarray) -> Evidence:
    """Each person says what they add to Page's statistic, and nothing if all orders are alike."""
    from scipy.stats import rankdata

    k = len(cells)
    scores = np.arange(1, k + 1) @ rankdata(cells, axis=0)
    trend = p_rising(cells.T), p_rising(cells[::-1].T)
    return Evidence(*trend, cells[-1] - cells[0], [scores], (k * (k + 1) ** 2 / 4,))


def people_needed(scores: Sequence[np.ndarray], borders: Sequence[float], level: float) -> float:
    """About how many people decide, with 90 % probability, on which side of borders all means are.

    scores: of each comparison those of the people at hand, shape (n,), taken for what all are like.
    level: of the two-sided tests. Infinite above 10,000; NaN for fewer than two people. By the
    power of Student's t, nearly (Cohen 1988, section 2.4); never fewer than the sign-flip test
    takes to reach a level.
    """
    from scipy.special import ndtr
    from scipy.stats import t

    if len(scores[0]) < 2:
        return math.nan
    n = np.unique(np.geomspace(2, MOST, 500).astype(int))
    away = [
        abs(own.mean() - border) / max(own.std(ddof=1), 1e-12)
        for own in scores
        for border in borders
    ]
    missed = ndtr(t.isf(level / 2, n - 1) - np.array(away)[:, None] * np.sqrt(n))  # at each border
    power = 1 - missed.sum(axis=0)
    enough = n[(power >= POWER) & (n >= math.log2(2 / level))]
    return float(enough[0]) if enough.size else math.inf
