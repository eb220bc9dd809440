"""Where results live: the one place that knows the folder names under `results/`.

Every method takes names or Snakemake wildcards (`"{identity}"`), so the workflow's rules and the
library agree on paths by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SETS = ("set_A", "set_B", "set_C")  # surrogate, instance and reference images (Anti-DreamBooth)


@dataclass(frozen=True)
class Cell:
    """One combination that is trained, sampled and scored."""

    model: str
    dataset: str
    identity: str
    protection: str
    purification: str
    trainer: str


WILDCARDS = Cell(*(f"{{{name}}}" for name in Cell.__dataclass_fields__))


@dataclass(frozen=True)
class Layout:
    """Paths of an experiment's results below one root."""

    root: Path = Path("results")

    def class_images(self, model: str, class_noun: str) -> Path:
        """Class images, sampled once per model for prior preservation."""
        return self.root / model / "class_images" / class_noun

    def dataset(self, cell: Cell) -> Path:
        return self.root / cell.model / cell.dataset

    def identity(self, cell: Cell) -> Path:
        return self.dataset(cell) / cell.identity

    def data(self, cell: Cell) -> Path:
        """Cropped and resized photos: `set_A/`, `set_B/`, `set_C/`."""
        return self.identity(cell) / "data"

    def protected(self, cell: Cell) -> Path:
        """Protected instance images, the unit of the `protect` stage."""
        return self.identity(cell) / "protected" / cell.protection

    def purified(self, cell: Cell) -> Path:
        return self.identity(cell) / "purified" / cell.protection / cell.purification

    def personalised(self, cell: Cell) -> Path:
        """Weights of the personalised model."""
        return self._trained(cell, "personalised")

    def generated(self, cell: Cell) -> Path:
        """Samples: one folder per prompt key, `<prompt>/<index>.png`."""
        return self._trained(cell, "generated")

    def scores(self, cell: Cell) -> Path:
        """One row per sample."""
        return self._trained(cell, "scores").with_suffix(".csv")

    def distances(self, cell: Cell) -> Path:
        """One row per protected or purified photo against its original."""
        folder = self.identity(cell) / "scores" / cell.protection
        return folder / f"{cell.purification}.csv"

    def references(self, cell: Cell) -> Path:
        """Face embeddings of every identity's set_C and the backend's calibration."""
        return self.dataset(cell) / "references.json"

    def tables(self, experiment: str) -> Path:
        return self.root / "tables" / experiment

    def report(self, experiment: str) -> Path:
        return self.root / "report" / experiment / "index.html"

    def _trained(self, cell: Cell, stage: str) -> Path:
        return self.identity(cell) / stage / cell.protection / cell.purification / cell.trainer
