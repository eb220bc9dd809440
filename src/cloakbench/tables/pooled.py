"""Scores of an experiment's cells that were made elsewhere, beside those that are here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.provenance import settings
from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell
from cloakbench.tables.collect import read_table, wrong

FREE = {"experiment", "identities", "seeds", "results", "keep_weights", "claims", "reported"}
"""Settings that tables may differ in: they change no score."""

AXES = ("protections", "purifications", "trainers")
"""Settings of which only methods that both name have to agree."""


class Elsewhere(NamedTuple):
    """Tables that have cells of an experiment: samples, photos, and where they come from."""

    folder: Path
    images: pd.DataFrame
    distances: pd.DataFrame
    provenance: Mapping[str, Any]


def read_elsewhere(folder: Path, cells: Sequence[Cell], provenance: Mapping[str, Any]) -> Elsewhere:
    """The rows of an experiment's cells in a folder of tables: `images.csv` and `distances.csv`.

    provenance: of the experiment here; the folder's `provenance.json` has to have the same weights
    and the same settings, but for people, seeds, and methods that only one of the two names.

    Raises:
        CloakBenchError: there are no tables, they are damaged, or made with other settings, or of
            none of the cells.
    """
    try:
        images, distances = (read_table(folder / f"{each}.csv") for each in ("images", "distances"))
        theirs = json.loads((folder / "provenance.json").read_text("utf-8"))
        other = _other(theirs, provenance)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CloakBenchError(
            f"{folder}: has no tables to pool ({error}). It needs images.csv, distances.csv and "
            "provenance.json, as `cloakbench tables` writes them."
        ) from None
    if other:
        raise CloakBenchError(
            f"{folder}: was made with other settings or weights than these ({', '.join(other)}), "
            "so its scores are no part of this experiment. `cloakbench compare` sets two runs side "
            "by side."
        )
    known = {tuple(vars(cell).values()) for cell in cells}
    parts = {
        name: _of_cells(folder / f"{name}.csv", frame, labels, known)
        for name, frame, labels in (
            ("images", images, CELL_LABELS),
            ("distances", distances, PHOTO_LABELS),
        )
    }
    if not any(map(len, parts.values())):
        raise CloakBenchError(
            f"{folder}: has no cell of this experiment: other people, seeds or methods. Name "
            "another folder."
        )
    return Elsewhere(folder, **parts, provenance=theirs)


def pool(
    frames: Sequence[pd.DataFrame], cells: Sequence[Cell], labels: Sequence[str]
) -> pd.DataFrame:
    """The rows of all frames, in the cells' order; of what is in several, those of the first.

    labels: which of a cell's labels say whose a row is, `CELL_LABELS` or `PHOTO_LABELS`.
    """
    order = dict.fromkeys(tuple(getattr(cell, each) for each in labels) for cell in cells)
    made: dict[Any, pd.DataFrame] = {}
    for frame in frames:
        for key, rows in frame.groupby([*labels], sort=False) if len(frame) else ():
            made.setdefault(key, rows)
    found = [made[key] for key in order if key in made]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _other(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Settings, but for those that tables may differ in, and weights that are not the same."""
    config, wanted = _as_of_now(theirs["config"]), ours["config"]
    compared = (config.keys() | wanted.keys()) - FREE - {*AXES}
    told = [k for k in compared if config.get(k) != wanted.get(k)]
    told += [label for axis in AXES for label in _unlike(config.get(axis), wanted.get(axis))]
    weights, loaded = theirs["weights"], ours["weights"]
    told += [k for k in weights.keys() & loaded.keys() if weights[k] != loaded[k]]
    return sorted(told)


def _unlike(theirs: Sequence[Mapping[str, Any]] | None, ours: Any) -> list[str]:
    """Labels of methods that both have, with other settings."""
    known = {each["name"]: each for each in ours or ()}
    return [
        name for each in theirs or () if (name := each["name"]) in known and known[name] != each
    ]


def _as_of_now(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with the defaults of settings that are newer than it, if it is still understood."""
    try:
        return settings(Experiment.parse(dict(config)))
    except CloakBenchError:
        return config


def _of_cells(
    path: Path, frame: pd.DataFrame, labels: Sequence[str], known: set[tuple[str, ...]]
) -> pd.DataFrame:
    """The rows of the experiment's own cells; people who are not of it are left out.

    Raises:
        CloakBenchError: columns are missing, or values are none that metrics give.
    """
    if missing := [each for each in labels if each not in frame]:
        raise CloakBenchError(f"{path}: has no column '{missing[0]}', so it is no table of scores.")
    wanted = {key[: len(labels)] for key in known}
    parts = [rows for key, rows in frame.groupby([*labels], sort=False) if key in wanted]
    for rows in parts:
        if said := wrong(rows):
            raise CloakBenchError(f"{path}: {said}. Copy the file again from where it was made.")
    return pd.concat(parts) if parts else frame[:0]
