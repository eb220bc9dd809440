"""What protections that adapt are worth, to somebody who does not know whether they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cloakbench.tables.estimates import estimates
from cloakbench.tables.summary import GROUP, groups_of, paired


def expected_means(
    images: pd.DataFrame, adapted: Mapping[str, str], probabilities: Sequence[float]
) -> pd.DataFrame:
    """Mean scores if a protection adapts with a probability: (1 - p) plain + p adapted.

    adapted: protections that adapt, and the same ones that do not, by their labels.

    Columns: `GROUP`, of the one that adapts; `baseline`, the one that does not; `probability`: 0,
    the given ones, and 1; `over` (see `by_cell`), how many of these there are, then each metric's
    `estimates`, of the people that both have.
    Source: Liu et al. 2024, arXiv 2406.18944, adaptive attack.
    """
    groups = {tuple(labels.values()): (labels, frame) for labels, frame in groups_of(images)}
    rows: list[dict[str, Any]] = []
    for labels, frame in groups.values():
        baseline = adapted.get(labels["protection"], "")
        plain = groups.get(tuple((labels | {"protection": baseline}).values()))
        if plain is None:
            continue
        over, [(_, before), (_, after)] = paired([(1, plain[1]), (1, frame)])
        for p in sorted({0.0, *probabilities, 1.0}):
            named = {"baseline": baseline, "probability": f"{p:g}", "over": over, over: len(before)}
            rows.append({**labels, **named, **estimates([(1 - p, before), (p, after)])})
    return pd.DataFrame(rows, columns=None if rows else [*GROUP, "baseline", "probability", "over"])
