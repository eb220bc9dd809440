"""How much of what separates people is chance of training: cells repeated with several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from cloakbench.tables.summary import groups_of, metric_columns


def repeats(images: pd.DataFrame) -> pd.DataFrame | None:
    """A row per cell of the study and metric; None where no cell is repeated.

    images: rows of samples, as `Tables` has them.

    Columns: `GROUP`, `metric`, `n` people and `seeds`, which each of them has; `mean`; `sd_people`,
    the standard deviation of people's true means; `sd_seeds`, that of one person's mean from seed
    to seed; and `share` of the variance of people's means over their seeds that is due to seeds.
    Components of variance of a balanced one-way layout (Searle, Casella and McCulloch 1992,
    section 3.5), which cannot be negative; people without a value for every seed are left out.
    """
    seeds = images["seed"].nunique()
    if seeds < 2:
        return None
    return pd.DataFrame([row for each in groups_of(images) for row in _rows(*each, seeds)])


def _rows(labels: dict[str, str], frame: pd.DataFrame, seeds: int) -> Iterator[dict[str, Any]]:
    means = frame.groupby(["identity", "seed"])[metric_columns(frame)].mean()
    for name in means:
        table = means[name].unstack("seed").dropna()
        if table.shape[1] == seeds:
            within = table.var(axis=1, ddof=1).mean()
            total = table.mean(axis=1).var(ddof=1)  # NaN of one person
            yield {
                **labels,
                "metric": name,
                "n": len(table),
                "seeds": seeds,
                "mean": table.to_numpy().mean() if len(table) else math.nan,
                "sd_people": math.sqrt(np.maximum(0.0, total - within / seeds)),
                "sd_seeds": math.sqrt(within),
                "share": min(1.0, within / seeds / total) if total > 0 else math.nan,
            }
