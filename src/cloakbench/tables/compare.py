"""Two runs beside one another: what one gives less what the other gives, cell by cell."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cloakbench.errors import CloakBenchError
from cloakbench.files.verified import verified
from cloakbench.score.base import metrics
from cloakbench.tables.collect import read_table
from cloakbench.tables.estimates import estimates, paired_tests
from cloakbench.tables.inference import holm
from cloakbench.tables.summary import groups_of, metric_columns, paired

UNPAIRED = "unpaired"  # what a difference is over where no person is in both runs


class Run(NamedTuple):
    """A run's samples, one row each, and the settings that they were scored with."""

    folder: Path
    images: pd.DataFrame
    config: Mapping[str, Any]


class Comparison(NamedTuple):
    """Differences, one row per cell of both runs, and why metrics of both are not among them."""

    differences: pd.DataFrame
    left_out: dict[str, str]


def read_run(folder: Path) -> Run:
    """The tables of a run.

    Raises:
        CloakBenchError: they are not there, or were changed.
    """
    if not folder.exists():
        raise CloakBenchError(f"{folder}: no such folder of tables, and no config.")
    try:
        images = read_table(verified(folder) / "images.csv")
        config = json.loads((folder / "provenance.json").read_text("utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise CloakBenchError(
            f"{folder}: has no tables of a run ({error}). Run snakemake, or `cloakbench tables`."
        ) from None
    return Run(folder, images, config)


def compare(first: Run, second: Run) -> Comparison:
    """The second run less the first, in every cell that both have.

    Differences are paired by the people who are in both runs, with intervals and tests as in the
    contrasts; where there are none, they are of means and have neither. Columns: as of contrasts,
    with `over` "unpaired" for the latter.

    Raises:
        CloakBenchError: no cell is in both, or no metric that was measured alike.
    """
    kept, left_out = _alike(first, second)
    if not kept:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise _incomparable(first, second, f"no metric was measured alike ({why or 'none shared'})")
    ours = {tuple(labels.values()): frame for labels, frame in groups_of(first.images)}
    rows = [
        {**labels, **_difference(ours[key], frame, kept)}
        for labels, frame in groups_of(second.images)
        if (key := tuple(labels.values())) in ours
    ]
    if not rows:
        raise _incomparable(first, second, "no cell of a model, dataset and methods is in both")
    made = pd.DataFrame(rows)
    for name in kept:
        made[f"{name}_holm"] = holm(made[f"{name}_p"].to_numpy(dtype=float))
    return Comparison(made, left_out)


def _alike(first: Run, second: Run) -> tuple[list[str], dict[str, str]]:
    """Metrics of both runs, and those that were measured in another way, with the reason."""
    theirs = {*metric_columns(second.images)}
    shared = [name for name in metric_columns(first.images) if name in theirs]
    specs = [
        {spec["method"]: spec for spec in run.config.get("metrics", [])} for run in (first, second)
    ]
    faces = [run.config.get("faces") for run in (first, second)]
    left_out = {}
    for name in shared:
        if specs[0].get(name) != specs[1].get(name):
            left_out[name] = "its settings differ"
        elif metrics[name].reads & {"faces", "reference"} and faces[0] != faces[1]:
            left_out[name] = "the face backends differ"
    return [name for name in shared if name not in left_out], left_out


def _difference(
    first: pd.DataFrame, second: pd.DataFrame, names: Collection[str]
) -> dict[str, Any]:
    shared = {*first["identity"]} & {*second["identity"]}
    if not shared:
        return _unpaired(first, second, names)
    over, terms = paired([(1, second), (-1, first)])
    terms = [(sign, frame[[*names]]) for sign, frame in terms]
    units = terms[0][1].index.intersection(terms[1][1].index)
    row = {"over": over, over: len(units)}
    return row | estimates(terms) | paired_tests(terms, over)


def _unpaired(first: pd.DataFrame, second: pd.DataFrame, names: Collection[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"over": UNPAIRED}
    for name in names:
        means = [frame.groupby("identity")[name].mean() for frame in (second, first)]
        row[name] = means[0].mean() - means[1].mean()
        row |= dict.fromkeys((f"{name}_low", f"{name}_high", f"{name}_p"), math.nan)
        row[f"{name}_n"] = min(int(each.notna().sum()) for each in means)
    return row


def _incomparable(first: Run, second: Run, why: str) -> CloakBenchError:
    return CloakBenchError(f"{first.folder} and {second.folder} cannot be compared: {why}.")
