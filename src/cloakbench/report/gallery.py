"""The pictures of a report, identity by identity, in the order of the cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell, Layout, label, prompt_folders
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.verified import load_manifest
from cloakbench.report.pictures import GAIN, Picture, first, perturbations, photos, samples
from cloakbench.score.base import metrics
from cloakbench.tables import Tables
from cloakbench.tables.display import Value, heading, score_value
from cloakbench.tables.summary import aggregate, metric_columns, rows_of

PHOTOS = 4  # of each set of photos
SAMPLES = 4  # of each prompt
IDENTITIES = 4  # in the report; the tables have all
FEW_CELLS = 50  # whose pictures are all whole; with those of more, a page would be huge


@dataclass(frozen=True)
class Column:
    """Generated images of one trainer: prompt and pictures, and the cell's scores.

    Prompts are those that were sampled with, which some trainers lengthen.
    """

    trainer: str
    scores: list[tuple[str, Value]]
    negative_prompt: str
    prompts: list[tuple[str, list[Picture]]]


@dataclass(frozen=True)
class Purified:
    """One purification of a protection; no pictures where the photos are left as they are."""

    purification: str
    photos: list[Picture]
    distances: list[tuple[str, Value]]
    columns: list[Column]


@dataclass(frozen=True)
class Protected:
    """One protection; no perturbations where nothing was changed."""

    protection: str
    photos: list[Picture]
    perturbations: list[Picture]
    purifications: list[Purified]


@dataclass(frozen=True)
class Gallery:
    """Everything that the report shows of one identity."""

    title: str
    originals: list[Picture]
    protections: list[Protected]


def galleries(cells: Sequence[Cell], layout: Layout, tables: Tables) -> list[Gallery]:
    """Pictures and scores of the first `IDENTITIES` identities of an experiment.

    Raises:
        CloakBenchError: a folder of photos or samples is missing; the message names it.
    """
    maker = _Maker(layout, tables, all_whole(cells))
    return [maker.gallery(own) for own in _first_identities(cells)]


def all_whole(cells: Sequence[Cell]) -> bool:
    """Whether every picture of these cells is shown whole, and not the first of each row alone."""
    return sum(map(len, _first_identities(cells))) <= FEW_CELLS


def _first_identities(cells: Sequence[Cell]) -> list[list[Cell]]:
    return _grouped(cells, ("model", "dataset", "identity"))[:IDENTITIES]


def _grouped(cells: Iterable[Cell], names: tuple[str, ...]) -> list[list[Cell]]:
    """Cells that agree on some labels, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, name) for name in names), []).append(cell)
    return list(groups.values())


@dataclass(frozen=True)
class _Maker:
    layout: Layout
    tables: Tables
    whole: bool

    def gallery(self, cells: list[Cell]) -> Gallery:
        cell = cells[0]
        originals = first(self.layout.data(cell) / "set_B", PHOTOS)
        return Gallery(
            title=f"{cell.identity} · {cell.dataset} · {cell.model}",
            originals=photos(originals, f"original of {cell.identity}", self.whole),
            protections=[
                self._protected(same, originals) for same in _grouped(cells, ("protection",))
            ],
        )

    def _protected(self, cells: list[Cell], originals: dict[str, Image.Image]) -> Protected:
        cell = cells[0]
        own = first(self.layout.protected(cell), PHOTOS)
        changed = any(own[stem] != originals.get(stem) for stem in own)
        name = f"{cell.protection} of {cell.identity}"
        magnified = f"perturbation \N{MULTIPLICATION SIGN} {GAIN}, {name}"
        return Protected(
            protection=cell.protection,
            photos=photos(own, f"protected by {name}", self.whole) if changed else [],
            perturbations=perturbations(own, originals, magnified, self.whole) if changed else [],
            purifications=[self._purified(same) for same in _grouped(cells, ("purification",))],
        )

    def _purified(self, cells: list[Cell]) -> Purified:
        cell = cells[0]
        untouched = cell.purification in self.tables.controls.purification
        own = [] if untouched else self._purified_photos(cell)
        return Purified(
            cell.purification, own, self._distances(cell), [self._column(c) for c in cells]
        )

    def _purified_photos(self, cell: Cell) -> list[Picture]:
        own = first(self.layout.purified(cell), PHOTOS)
        words = f"{cell.protection}, then {cell.purification}, of {cell.identity}"
        return photos(own, words, self.whole)

    def _distances(self, cell: Cell) -> list[tuple[str, Value]]:
        rows = rows_of(self.tables.distances, label(cell, PHOTO_LABELS))
        [values] = aggregate(rows, PHOTO_LABELS).to_dict("records")
        return [(metrics[name].title, score_value(values, name)) for name in metric_columns(rows)]

    def _column(self, cell: Cell) -> Column:
        own = label(cell, [name for name in CELL_LABELS if name != "seed"])
        row = rows_of(self.tables.identities, own).iloc[0].to_dict()
        names, against = metric_columns(self.tables.identities), self.tables.contrary
        folder = self.layout.generated(cell)
        folders, settings = prompt_folders(folder), _settings(folder)
        texts = settings.get("prompts", {})
        return Column(
            trainer=cell.trainer,
            scores=[(heading(name, against), score_value(row, name)) for name in names],
            negative_prompt=settings.get("negative_prompt", ""),
            prompts=[
                (
                    texts.get(folder.name, folder.name),
                    samples(
                        first(folder, SAMPLES),
                        f"{_words(cell)}, {folder.name}",
                        folder.name,
                        self.whole,
                    ),
                )
                for folder in folders
            ],
        )


def _words(cell: Cell) -> str:
    return f"{cell.identity} by {cell.protection} / {cell.purification} / {cell.trainer}"


def _settings(samples: Path) -> dict[str, Any]:
    """What `cloakbench sample` used; nothing is known of samples from elsewhere."""
    said = [load_manifest(place / MANIFEST) for place in (samples, samples.parent)]  # of snapshots
    settings = next(filter(None, said), {}).get("settings", {})
    return settings.get("sampling", settings)  # where one job trained and sampled, it has both
