"""Numbers and headings as people read them, for Markdown, the terminal and the report."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from cloakbench.files.layout import CELL_LABELS
from cloakbench.score.base import SetMetric, metrics
from cloakbench.tables.summary import metric_columns

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"  # where there is no number
ARROWS = {"higher": "↑", "lower": "↓"}
NOTE = (
    "Arrows point to where the protection holds; brackets are 95 % intervals over {}; of fewer "
    "than five, the values themselves are in parentheses. Where all agree, brackets reach to what "
    "others could still show."
)
OF_FACES = (
    " Of samples with a face only: {}; where some have none, n says of how many {}, and what "
    "follows it is the mean if the others were strangers, or the person."
)
CONTRARY = (
    " Without an arrow: {}; protections move it here the other way than its arrow would point."
)
SATURATED = (
    " {}: at its limit is the value that all images far from natural ones get, whatever they show."
)
CONTRASTS_NOTE = (
    "A cell's score minus that of its baseline, which has controls in the place of some of the "
    "cell's methods, paired; shares differ by percentage points. A baseline with "
    "\N{MULTIPLICATION SIGN} is a difference of differences: how much more one of the two methods "
    "changes in the other's presence. p is of the exact two-sided sign-flip test over people, then "
    "after Holm's correction for the rows of its column."
)
VERDICTS_NOTE = (
    "A claim holds or is contradicted if p, of exact sign-flip tests over people (of Page's test "
    "for a trend, of which single steps may be level or fall), is at most {level:g} after Holm's "
    "correction for all claims of its family, those in one file. P is two-sided: twice the lesser "
    "of two, of the claim and of its opposite. For the claim all comparisons have to speak, so the "
    "largest counts; against it one is enough, times their number. What is level within a margin "
    "is above its lower end and below its upper one; differences need not be symmetric about "
    "these, so p there is the largest of sign flips', Student's t and the bootstrap-t. An effect "
    "is the mean of the first cell less that of the other, or of the last less the first of a "
    "trend; of several comparisons it is the one least favourable to the claim. Its interval has a "
    "confidence of {confidence:g} %, for this claim alone, so that it may leave out zero where the "
    "verdict is undecided. Wilcoxon: p of the signed ranks of its differences, not corrected. n: "
    "of the people that were planned; until all have run, verdicts are those of a look in between. "
    "People: about how many would decide the claim with 90 % probability, were all like these."
)
VERDICT = (
    *("claim", "source", "verdict", "endpoint", "test", "effect"),
    *("p", "p by Holm", "Wilcoxon", "n", "people"),
)
SEEDS_NOTE = (
    "Every cell is repeated with each seed. SD of people: of their true means; SD of seeds: of one "
    "person's mean, from seed to seed. Share: of the variance of people's means over their seeds "
    "that is due to seeds, so that more seeds would narrow intervals by that at most."
)
SPREADS = ("metric", "n", "seeds", "mean", "SD of people", "SD of seeds", "share of seeds")
LABELS = (*CELL_LABELS, "prompt", "baseline", "probability", "budget", "steps")
COUNTS = ("identities", "images", "faces")


class Value(NamedTuple):
    """A table cell: the value and, where there is one, its interval."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


class Grid(NamedTuple):
    """A table of text: headings, rows of values, the labels that all rows share, and what the
    columns are called in the table that it is made of.
    """

    headings: list[str]
    rows: list[list[Value]]
    shared: dict[str, str]
    columns: Sequence[str] = ()


def number(value: float, spec: str) -> str:
    """A number in a format, with a true minus sign, none for zero; a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = format(value, spec)
    return text.replace("-", MINUS) if re.search("[1-9]", text) else text.lstrip("+-")


def verdicts_note(frame: pd.DataFrame) -> str:
    """What explains a table of verdicts."""
    level = frame["level"].iloc[0]
    return VERDICTS_NOTE.format(level=level, confidence=100 * (1 - level))


def p_value(p: float) -> str:
    """Two digits of p, never rounded down, since a level is reached or is not."""
    if math.isnan(p) or p <= 0:
        return number(p, ".2g")
    unit = 10.0 ** (math.floor(math.log10(p)) - 1)
    return number(min(1.0, math.ceil(p / unit - 1e-9) * unit), ".2g")


def score_grid(
    frame: pd.DataFrame, counts: Sequence[str] = COUNTS, contrary: Collection[str] = ()
) -> Grid:
    """Scores per identity or cell, with intervals where the table has them.

    contrary: metrics without an arrow, since theirs is wrong here.
    """
    return _grid(frame, counts, "", contrary)


def difference_grid(
    frame: pd.DataFrame, contrary: Collection[str] = (), counts: Sequence[str] = COUNTS
) -> Grid:
    """Differences between cells, with their signs, and of how many people or images they are."""
    return _grid(frame, counts, "+", contrary)


def _grid(frame: pd.DataFrame, counts: Sequence[str], sign: str, contrary: Collection[str]) -> Grid:
    names = metric_columns(frame)
    shared, labels = _labels(frame)
    counts = [name for name in counts if name in frame]
    headings = [*labels, *counts, *(heading(name, contrary) for name in names)]
    rows = [
        [
            *(Value(_label(row[name])) for name in labels),
            *(Value(number(row[name], ".0f")) for name in counts),
            *(score_value(row, name, sign) for name in names),
        ]
        for row in frame.to_dict("records")
    ]
    return Grid(headings, rows, shared, [*labels, *counts, *names])


def photo_grid(frame: pd.DataFrame) -> Grid:
    """What metrics say of photos; without arrows, which are about samples."""
    shared, labels = _labels(frame)
    names = metric_columns(frame)
    rows = [
        [
            *(Value(_label(row[name])) for name in labels),
            *(score_value(row, name) for name in names),
        ]
        for row in frame.to_dict("records")
    ]
    headings = [*labels, *(metrics[name].title for name in names)]
    return Grid(headings, rows, shared, [*labels, *names])


def verdict_grid(frame: pd.DataFrame, headings: Sequence[str] = VERDICT) -> Grid:
    """Claims with their verdicts and what these rest on: columns of `VERDICT`."""
    rows = [_verdict(row) for row in frame.to_dict("records")]
    return Grid([*headings], [[row[name] for name in headings] for row in rows], {}, headings)


def _verdict(row: Mapping[Any, Any]) -> dict[str, Value]:
    metric = metrics[row["endpoint"]]
    spec = f"+{metric.display}"
    low, high = (number(row[end], spec) for end in ("low", "high"))
    margin = number(row["margin"], metric.display)
    interval = "" if math.isnan(row["low"]) else f"[{low}, {high}]"
    return {
        **{name: Value(row[name]) for name in ("claim", "source", "verdict")},
        "endpoint": Value(metric.title),
        "test": Value(f"{row['test']} within {margin}" if row["margin"] else row["test"]),
        "effect": Value(number(row["effect"], spec), interval),
        "p": Value(p_value(row["p"])),
        "p by Holm": Value(p_value(row["p_holm"])),
        "Wilcoxon": Value(p_value(row["p_wilcoxon"])),
        "n": Value(f"{row['n']} of {row['planned']}"),
        "people": Value(number(row["people"], ".0f")),
    }


def seed_grid(frame: pd.DataFrame) -> Grid:
    """What is due to seeds: columns of `repeats`."""
    shared, labels = _labels(frame)
    rows = [
        [
            *(Value(str(row[name])) for name in labels),
            Value(metrics[row["metric"]].title),
            *(Value(str(row[name])) for name in ("n", "seeds")),
            Value(number(row["mean"], metrics[row["metric"]].display)),
            *(Value(number(row[name], ".3g")) for name in ("sd_people", "sd_seeds")),
            Value(number(row["share"], ".0%")),
        ]
        for row in frame.to_dict("records")
    ]
    headings = [*labels, *SPREADS]
    return Grid(headings, rows, shared, headings)


def heading(metric: str, contrary: Collection[str] = ()) -> str:
    """A metric's title with the arrow of its direction, if it is right here."""
    arrow = "" if metric in contrary else f" {ARROWS[metrics[metric].protects]}"
    return f"{metrics[metric].title}{arrow}"


def score_value(row: Mapping[Any, Any], metric: str, sign: str = "") -> Value:
    """One metric of one row, with what the row has of interval, missing units and p.

    sign: "+" for values that always have one.
    """
    spec = sign + metrics[metric].display
    parts = [spread(row, metric, spec), _missing(row, metric, spec), _saturated(row, metric)]
    p, holm = (p_value(row.get(f"{metric}_{of}", math.nan)) for of in ("p", "holm"))
    if holm != NOTHING:
        parts.append(f"p={holm} by Holm" if p == NOTHING else f"p={p}, {holm} by Holm")
    return Value(number(row[metric], spec), " ".join(filter(None, parts)))


def spread(row: Mapping[Any, Any], metric: str, spec: str) -> str:
    """The interval of one metric of one row, or the values of few; "" where there is neither."""
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if not math.isnan(low):
        return f"[{number(low, spec)}, {number(high, spec)}]"
    few = [float(text) for text in str(row.get(f"{metric}_values", "")).split()]
    return f"({', '.join(number(each, spec) for each in few)})" if len(few) > 1 else ""


def _missing(row: Mapping[Any, Any], metric: str, spec: str) -> str:
    n, all_of_them = row.get(f"{metric}_n", math.nan), row.get(row.get("over", ""), math.nan)
    of_images = row.get("over") == "images" and issubclass(metrics[metric], SetMetric)
    if of_images or not n < all_of_them:  # images make one set
        return ""
    least, most = row.get(f"{metric}_least", math.nan), row.get(f"{metric}_most", math.nan)
    ends = "" if math.isnan(least) else f", {number(least, spec)} to {number(most, spec)}"
    return f"n={n:.0f}{ends}"


def _saturated(row: Mapping[Any, Any], metric: str) -> str:
    count = row.get(f"{metric}_saturated", 0)
    times = "once" if count == 1 else f"{count:.0f} times"
    return f"at its limit {times}" if count > 0 else ""


def note(summary: pd.DataFrame, contrary: Collection[str] = ()) -> str:
    """The line that explains a summary's arrows, brackets, missing values and limits."""
    over, names = " or ".join(summary["over"].unique()), metric_columns(summary)
    titles = [metrics[name].title for name in names if metrics[name].of_faces]
    against = [metrics[name].title for name in names if name in contrary]
    limits = [metrics[name].title for name in names if f"{name}_saturated" in summary]
    return (
        NOTE.format(over)
        + (OF_FACES.format("; ".join(titles), over) if titles else "")
        + (CONTRARY.format("; ".join(against)) if against else "")
        + (SATURATED.format("; ".join(limits)) if limits else "")
    )


def _labels(frame: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Labels that every row shares, and the label columns that remain."""
    there = [name for name in LABELS if name in frame]
    present = [name for name in there if frame.empty or frame[name].notna().any()]
    constant = [
        name for name in present if len(frame) > 1 and frame[name].nunique(dropna=False) == 1
    ]
    shared = {name: _label(frame[name].iloc[0]) for name in constant}
    return shared, [name for name in present if name not in shared]


def _label(value: Any) -> str:
    """A label: a name, or a share of the default steps."""
    return number(value, ".0%") if isinstance(value, float) else str(value)
