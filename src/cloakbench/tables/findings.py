"""What an experiment says of each protection, in the words of the ledger of claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cloakbench.files.layout import METHOD_LABELS, Controls, trained
from cloakbench.score.base import metrics
from cloakbench.tables.display import Value, number, p_value, score_value, spread
from cloakbench.tables.experiment import Tables
from cloakbench.tables.inference import holm
from cloakbench.tables.measures import (
    IDENTITY,
    LEVEL,
    QUALITY,
    Row,
    chosen,
    directed,
    has_values,
    is_beside,
)
from cloakbench.tables.summary import rows_of

LEARNT = 0.2  # of the way from a stranger to the person, below which a person is not learnt
FAILED = "The control failed: clean photos are not learnt"
FACELESS = 0.5  # share of samples of clean photos above which nothing is learnt


class Way(NamedTuple):
    """What is done with photos: a purification and a trainer."""

    purification: str
    trainer: str


class Finding(NamedTuple):
    """Whether a protection harms, by one metric, beside one control or more, in one way or more.

    verdict: "holds", "contradicted" or "undecided", by p of the sign-flip test after Holm's
        correction for all findings of an experiment. Of several comparisons it is the one least
        favourable to the protection, as in the ledger.
    holm: p after the correction; NaN where there is no p.
    few: whether so few people could not decide it, whatever they and those of the others show.
    """

    verdict: str
    metric: str
    way: Way
    baseline: str
    difference: Value
    p: float
    holm: float
    n: int
    over: str
    few: bool

    @property
    def title(self) -> str:
        return metrics[self.metric].title

    @property
    def beside(self) -> str:
        """The protection that it is compared with."""
        return self.baseline.partition(", ")[0]

    @property
    def shown(self) -> tuple[str, str]:
        """P, before and after the correction."""
        return p_value(self.p), p_value(self.holm)


class Findings(NamedTuple):
    """Of one protection: likeness and quality where nothing undoes it, and likeness in the way that
    is least favourable to it, where there are others.
    """

    protection: str
    identity: Finding
    quality: Finding | None
    undone: Finding | None


class Control(NamedTuple):
    """Whether clean photos are learnt, without which a protection has nothing to harm."""

    learnt: bool
    way: Way
    scores: list[tuple[str, Value]]


def findings(tables: Tables) -> list[Findings]:
    """What holds of each protection that is no control, in the order of the tables."""
    made = [
        found
        for protection in tables.summary["protection"].unique()
        if protection not in tables.controls.protection
        and (found := _find(tables, str(protection)))
    ]
    decided = iter(_decided([each for found in made for each in found[1:] if each]))
    return [
        found._replace(
            identity=next(decided),
            quality=found.quality and next(decided),
            undone=found.undone and next(decided),
        )
        for found in made
    ]


def control(tables: Tables) -> Control | None:
    """How well clean photos are learnt; None where there are none, or nothing tells."""
    way, known = first_way(tables), tables.controls.protection[:1]
    summary = tables.summary.to_dict("records")
    rows = [row for row in summary if _way(row) == way and row["protection"] in known]
    names = [name for name in ("relative_ims", "fdfr") if has_values(tables.summary, name)]
    if not rows or not names:
        return None
    score, faceless = rows[0].get("relative_ims", math.nan), rows[0].get("fdfr", math.nan)
    failed = score < LEARNT or faceless > FACELESS
    return Control(not failed, way, [(metrics[n].title, score_value(rows[0], n)) for n in names])


def failure(tables: Tables) -> str:
    """The sentence that says that the control failed; "" where it did not."""
    if (found := control(tables)) is None or found.learnt:
        return ""
    scores = "; ".join(f"{title} {value}" for title, value in found.scores)
    way = " / ".join(found.way)
    return f"{FAILED} ({way}: {scores}), so no row says anything of a protection. "


def first_way(tables: Tables) -> Way:
    """The controls among purifications and trainers; what the first cell has, where there are
    none.
    """
    rows = tables.summary
    learnt = ~rows["trainer"].isin(tables.controls.floor)
    rows = rows[learnt] if learnt.any() else rows
    own = [
        next(label for label in [*known, *rows[name]] if label in set(rows[name]))
        for name, known in (
            ("purification", tables.controls.purification),
            ("trainer", tables.controls.trainer),
        )
    ]
    return Way(*own)


def typical(tables: Tables, found: Finding, protection: str) -> str | None:
    """The person whose difference to the finding's baseline is nearest to the mean of all."""
    own = rows_of(tables.identities, found.way._asdict()).set_index("identity")
    values = own[own["protection"] == protection][found.metric].dropna()
    values = (values - own[own["protection"] == found.beside][found.metric]).dropna()
    return None if values.empty else str((values - values.mean()).abs().idxmin())


def _find(tables: Tables, protection: str) -> Findings | None:
    frame, known = tables.contrasts, tables.controls.protection
    own = [r for r in frame.to_dict("records") if r["protection"] == protection]
    bare = [r for r in own if _way(r) == first_way(tables) and is_beside(r, known)]
    ways = [r for r in own if _way(r) != first_way(tables) and _is_whole(r)]
    others = _beside_clean(ways, tables.controls)
    identity, quality = chosen(frame, IDENTITY), chosen(frame, QUALITY)
    found = _judge(bare, identity)
    if found is None:
        return None
    return Findings(protection, found, _judge(bare, quality), _judge(others, identity))


def _is_whole(row: Row) -> bool:
    """Whether a training ran to its end; before, less is always learnt."""
    return trained(row["trainer"]) == str(row["trainer"])


def _beside_clean(rows: Sequence[Row], controls: Controls) -> list[Row]:
    """Differences to clean photos that went the same way; where no such photos ran, to those that
    nothing was done to.
    """
    beside = [row for row in rows if is_beside(row, controls.protection[:1])]
    compared = {_way(row) for row in beside}
    candidates = controls._asdict()
    firsts = {axis: candidates[axis][0] for axis in METHOD_LABELS if candidates[axis]}
    for row in rows if "protection" in firsts else ():
        changed = [first for axis, first in firsts.items() if row[axis] != first]
        if _way(row) not in compared and row["baseline"] == " + ".join(changed):
            beside.append(row)
    return beside


def _judge(rows: Sequence[Row], metric: str | None) -> Finding | None:
    """What rows say, which all have to speak for the protection; not yet decided."""
    if metric is None or not (rows := [row for row in rows if not math.isnan(row[metric])]):
        return None
    worst = max(rows, key=lambda row: _doubt(row, metric))
    harms, spec = directed(worst, metric) > 0, f"+{metrics[metric].display}"
    p = float(worst[f"{metric}_p"])
    if not harms:  # one of them may by chance
        p = float(np.minimum(1.0, p * len(rows)))
    return Finding(
        "holds" if harms else "contradicted",
        metric,
        _way(worst),
        worst["baseline"],
        Value(number(worst[metric], spec), spread(worst, metric, spec)),
        p,
        math.nan,
        int(worst[f"{metric}_n"]),
        worst["over"],
        few=False,
    )


def _decided(family: Sequence[Finding]) -> list[Finding]:
    corrected = holm(np.array([each.p for each in family]))
    at_best = holm(np.array([2.0 ** (1 - each.n) for each in family]))  # where all people agree
    return [
        each._replace(
            verdict=each.verdict if p <= LEVEL else "undecided",
            holm=float(p),
            few=bool(best > LEVEL),
        )
        for each, p, best in zip(family, corrected, at_best, strict=True)
    ]


def _way(row: Row) -> Way:
    return Way(row["purification"], row["trainer"])


def _doubt(row: Row, metric: str) -> tuple[float, float]:
    """Larger, the less a row speaks for the protection."""
    p, size = row[f"{metric}_p"], directed(row, metric)
    p = 1.0 if math.isnan(p) else p
    return (p if size > 0 else 2 - p), -size
