"""From images to identities, from identities to cells, and from cells to differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pandas as pd

from cloakbench.files.layout import CELL_LABELS, METHOD_LABELS, PHOTO_LABELS, REPEATED, Controls
from cloakbench.score.base import SetMetric, metrics
from cloakbench.tables.estimates import Term, estimates, paired_tests
from cloakbench.tables.inference import holm

GROUP = tuple(name for name in CELL_LABELS if name not in REPEATED)
PERSONAL = tuple(name for name in CELL_LABELS if name != "seed")
REPLACED = (("protection",), ("purification",), ("trainer",), ("purification", "trainer"))
"""What a cell and its baselines differ in: protections are compared, and what undoes them."""

Labels = dict[str, str]
Baseline = tuple[str, list[tuple[int, Labels]]]
"""A name, and the cells that are added to or taken from a cell to be compared with it."""


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """The metrics of a table, in its own order."""
    known = set(metrics.names())
    return [name for name in frame.columns if name in known]


def by_identity(images: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of every identity in every cell, over its seeds.

    Columns: `PERSONAL`, `images`, `faces` (images with a face), then the metrics; a mean is over
    the images that have a value, NaN where none has.
    """
    groups = images.groupby(list(PERSONAL), sort=False)
    counts = groups.agg(images=("image", "size"))
    counts["faces"] = groups["face"].sum(min_count=1)  # where no metric looked for any, unknown
    means = groups[metric_columns(images)].mean()
    return counts.join(means).join(_saturated(images, PERSONAL)).reset_index()


def _saturated(images: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """How many values of each group are at their metric's limit, where any are."""
    limits = {name: metrics[name].saturates for name in metric_columns(images)}
    at_limit = pd.DataFrame(
        {
            f"{name}_saturated": (images[name] - limit).abs() < 1e-3
            for name, limit in limits.items()
            if limit is not None
        },
        index=images.index,
    )
    some = at_limit.loc[:, at_limit.any()]
    return some.groupby([images[name] for name in labels], sort=False).sum()


def by_cell(
    images: pd.DataFrame, budgets: Mapping[str, int], steps: Mapping[str, float]
) -> pd.DataFrame:
    """Mean scores over identities with 95 % intervals, one row per cell of the study.

    budgets: grey levels by protection; 255 bounds nothing. steps: shares of the default's gradient
    steps, by the protections that take any.

    Columns: `GROUP`, `budget`, `steps`, `identities`, `images`, `faces`, `over` (whose values make
    the interval: "identities", or "images" where there is one identity), then each metric's
    `estimates`; `brisque_saturated` and the like count values at their metric's limit, if any are.
    """
    rows: list[dict[str, Any]] = []
    for labels, frame in groups_of(images):
        over, units = _units(frame)
        rows.append(
            {
                **labels,
                "budget": _levels(budgets[labels["protection"]]),
                "steps": steps.get(labels["protection"], math.nan),
                "identities": frame["identity"].nunique(),
                "images": len(frame),
                "faces": frame["face"].sum(min_count=1),
                "over": over,
                **estimates([(1, units)]),
            }
        )
    return pd.DataFrame(rows).join(_saturated(images, GROUP), on=list(GROUP))


def by_prompt(
    images: pd.DataFrame, budgets: Mapping[str, int], steps: Mapping[str, float]
) -> pd.DataFrame | None:
    """`by_cell` of each prompt's samples, with a column `prompt`; None where there is one prompt.

    Metrics of sets are left out: a cell's samples of all prompts are one set.
    """
    if images["prompt"].nunique() < 2:
        return None
    sets = [name for name in metric_columns(images) if issubclass(metrics[name], SetMetric)]
    parts = images.drop(columns=sets).groupby([*GROUP, "prompt"], sort=False)
    rows = pd.concat([by_cell(own, budgets, steps) for _, own in parts], ignore_index=True)
    rows.insert(len(GROUP), "prompt", [key[-1] for key, _ in parts])
    return rows


def contrasts(images: pd.DataFrame, controls: Controls, budgets: Mapping[str, int]) -> pd.DataFrame:
    """Paired differences of each cell to its baselines: controls in its methods' places.

    Differences are taken per identity (per seed, prompt and image where there is one identity,
    since compared cells share their sampling noise) and then averaged. Columns: `GROUP`, `baseline`
    (see `_baselines`), `over`, how many of these there are, then each metric's `estimates`, its
    `paired_tests`, and `_holm`: their p after Holm's correction for the rows of its column.
    """
    groups = {tuple(labels.values()): (labels, frame) for labels, frame in groups_of(images)}
    floors = [labels for labels, _ in groups.values() if labels["trainer"] in controls.floor]
    rows: list[dict[str, Any]] = []
    for labels, frame in groups.values():
        baselines = [] if labels in floors else _baselines(labels, controls, budgets)
        for name, others in [*baselines, *_floors(labels, floors)]:
            found = [(sign, groups.get(tuple(other.values()))) for sign, other in others]
            if all(group for _, group in found):
                frames = [(1, frame), *((sign, group[1]) for sign, group in found if group)]
                over, terms = paired(frames)
                names = {"baseline": name, "over": over, over: len(terms[0][1])}
                rows.append({**labels, **names, **estimates(terms), **paired_tests(terms, over)})
    made = pd.DataFrame(rows, columns=None if rows else [*GROUP, "baseline", "over"])
    for name in metric_columns(made):
        made[f"{name}_holm"] = holm(made[f"{name}_p"].to_numpy(dtype=float))
    return made


def _baselines(
    labels: Labels, controls: Controls, budgets: Mapping[str, int]
) -> Iterator[Baseline]:
    """What a cell is compared with.

    "clean", "none + dreambooth": controls in the place of one or two methods; of two controls one
    is the other's baseline. "clean + none + dreambooth": first controls in the place of all, what
    undefended photos give. "clean x dreambooth": a difference of differences, how much more the
    trainer changes with this protection than with clean photos.
    """
    for replaced in _replaced(labels, controls):
        yield _name(labels, replaced, budgets), [(-1, labels | replaced)]
    candidates = controls._asdict()
    firsts = {axis: candidates[axis][0] for axis in METHOD_LABELS if candidates[axis]}
    changed = {axis: first for axis, first in firsts.items() if labels[axis] != first}
    if "protection" in changed and len(changed) > 1:
        yield " + ".join(changed.values()), [(-1, labels | changed)]
    for a, b in combinations(changed, 2):
        left, right = {a: changed[a]}, {b: changed[b]}
        others = [(-1, labels | left), (-1, labels | right), (1, labels | left | right)]
        yield f"{changed[a]} \N{MULTIPLICATION SIGN} {changed[b]}", others


def _floors(labels: Labels, floors: Sequence[Labels]) -> Iterator[Baseline]:
    """The base model, which has seen no photos, as the baseline of every cell of its dataset."""
    for floor in floors:
        if labels not in floors and all(labels[name] == floor[name] for name in GROUP[:2]):
            yield f"{floor['trainer']} (floor)", [(-1, floor)]


def _replaced(labels: Labels, controls: Controls) -> Iterator[Labels]:
    """Labels that make baselines of a cell; one of two controls is the other's baseline."""
    candidates = controls._asdict()
    for axes in REPLACED:
        earlier = []
        for axis in axes:
            known = candidates[axis]
            own = known.index(labels[axis]) if labels[axis] in known else len(known)
            earlier.append(known[:own])
        for chosen in product(*earlier):
            yield dict(zip(axes, chosen, strict=True))


def _name(labels: Labels, replaced: Labels, budgets: Mapping[str, int]) -> str:
    name = " + ".join(replaced.values())
    budget = budgets.get(replaced.get("protection", ""), 0)
    own = {0, budgets[labels["protection"]]}
    return name if budget in own else f"{name}, {_levels(budget)}"


def _levels(budget: int) -> str:
    return f"{budget}/255" if budget < 255 else "any"


def photo_summary(distances: pd.DataFrame, steps: Mapping[str, float]) -> pd.DataFrame:
    """What every protection and purification does to the photos.

    steps: see `by_cell`.

    Columns: labels but identity and seed, `steps`, `photos`, and the metrics of photos, each by its
    `aggregate`. That is first of an identity's photos and then of the identities, so that an
    identity with more photos does not weigh more.
    """
    labels = [name for name in PHOTO_LABELS if name not in REPEATED]
    photos = distances.groupby(labels, sort=False).agg(photos=("photo", "size"))
    values = aggregate(aggregate(distances, PHOTO_LABELS).reset_index(), labels)
    shares = [steps.get(name, math.nan) for name in photos.index.get_level_values("protection")]
    photos.insert(0, "steps", shares)
    return photos.join(values).join(_saturated(distances, labels)).reset_index()


def aggregate(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """The metrics of a table by group, each by its `Metric.aggregate`; the labels are the index."""
    names = metric_columns(frame)
    groups = frame.groupby(list(labels), sort=False)[names]
    finite = frame[names].replace([math.inf, -math.inf], math.nan)
    largest = groups.max()
    means = finite.groupby([frame[name] for name in labels], sort=False).mean()
    means = means.fillna(largest)  # where no value is finite: infinite, or none
    extreme = [name for name in names if metrics[name].aggregate == "max"]
    means[extreme] = largest[extreme]
    return means


def rows_of(frame: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """The rows of a table that have some labels."""
    return frame[(frame[list(labels)] == pd.Series(labels)).all(axis=1)]


def groups_of(images: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Cells of the study, over all identities: labels and rows."""
    for key, frame in images.groupby(list(GROUP), sort=False):
        yield dict(zip(GROUP, _names(key), strict=True)), frame


def _names(key: Hashable) -> Sequence[str]:
    assert isinstance(key, tuple)  # pandas: a list of keys gives tuples
    return key


def _units(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What intervals are over: identities, or the images of a single identity."""
    columns = metric_columns(frame)
    if frame["identity"].nunique() > 1:
        return "identities", frame.groupby("identity")[columns].mean()
    return "images", frame.set_index(["seed", "prompt", "image"])[columns]


def paired(frames: Sequence[tuple[int, pd.DataFrame]]) -> tuple[str, list[Term]]:
    """Units of the identities and seeds that all cells have, with the cells' signs."""
    repeated = [pd.MultiIndex.from_frame(frame[[*REPEATED]]) for _, frame in frames]
    shared = set.intersection(*map(set, repeated))
    own = zip(frames, repeated, strict=True)
    units = [(sign, *_units(frame[labels.isin(shared)])) for (sign, frame), labels in own]
    return units[0][1], [(sign, values) for sign, _, values in units]
