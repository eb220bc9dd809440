"""Where results live: the one place that knows the folder names under `results/`.

Every method takes names or Snakemake wildcards (`"{identity}"`), so the workflow's rules and the
library agree on paths by construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cloakbench.errors import CloakBenchError
from cloakbench.files.verified import verified

SETS = ("set_A", "set_B", "set_C")  # surrogate, instance and reference images (Anti-DreamBooth)

BESIDE_MODELS = ("tables", "report", "clip", "logs", "benchmarks")  # folders beside those of models

CLASS_SEED = 0
"""Class images are drawn once for a model, whatever its cells are repeated with."""

SNAPSHOT = "@"
"""What stands before the number of steps in the label of a training that went on, `cdl@50`."""

STAGES = {
    "class_images": 1,
    "data": 3,
    "references": 2,
    "protect": 5,
    "purify": 6,
    "distances": 6,
    "personalise": 7,
    "sample": 7,  # where weights are kept; else `personalise` samples
    "score": 7,
}
"""How many of a cell's labels name a job of a stage: cells that share them share the job."""


@dataclass(frozen=True)
class Cell:
    """One combination that is trained, sampled and scored.

    seed: the root of its draws; cells that differ in it alone repeat each other.
    """

    model: str
    dataset: str
    identity: str
    seed: str
    protection: str
    purification: str
    trainer: str


class Controls(NamedTuple):
    """Labels of the methods that others are compared with; earlier ones are compared with first.

    floor: trainers that learn nothing of the photos.
    """

    protection: tuple[str, ...] = ()
    purification: tuple[str, ...] = ()
    trainer: tuple[str, ...] = ()
    floor: tuple[str, ...] = ()


WILDCARDS = Cell(*(f"{{{name}}}" for name in Cell.__dataclass_fields__))


@dataclass(frozen=True)
class Layout:
    """Paths of an experiment's results below one root."""

    root: Path = Path("results")

    def folders(self, model: str) -> list[Path]:
        """All folders that results with a model go to."""
        return [self.root / name for name in (model, *BESIDE_MODELS)]

    @property
    def scratch(self) -> Path:
        """Checkpoints of jobs, and a cache of digests."""
        return self.root / ".scratch"

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

    def repeat(self, cell: Cell) -> Path:
        """All that an identity's photos become with one seed."""
        return self.identity(cell) / f"seed_{cell.seed}"

    def protected(self, cell: Cell) -> Path:
        """Protected instance images, the unit of the `protect` stage."""
        return self.repeat(cell) / "protected" / cell.protection

    def purified(self, cell: Cell) -> Path:
        return self.repeat(cell) / "purified" / cell.protection / cell.purification

    def personalised(self, cell: Cell) -> Path:
        """Weights of the personalised model."""
        return self._trained(cell, "personalised")

    def generated(self, cell: Cell) -> Path:
        """Samples: one folder per prompt key, `<prompt>/<index>.png`.

        Those of snapshots lie in a folder in that of their training.
        """
        trainer, *snapshot = cell.trainer.split(SNAPSHOT)
        own = self._trained(replace(cell, trainer=trainer), "generated")
        return own.joinpath(*(f"{SNAPSHOT}{step}" for step in snapshot))

    def scores(self, cell: Cell) -> Path:
        """One row per sample."""
        folder = self.repeat(cell) / "scores" / cell.protection / cell.purification
        return folder / f"{cell.trainer}.csv"

    def distances(self, cell: Cell) -> Path:
        """One row per protected or purified photo against its original."""
        folder = self.repeat(cell) / "scores" / cell.protection
        return folder / f"{cell.purification}.csv"

    def references(self, cell: Cell) -> Path:
        """Face embeddings of every identity's set_C and the backend's calibration."""
        return self.dataset(cell) / "references.json"

    def tables(self, experiment: str) -> Path:
        return self.root / "tables" / experiment

    def report(self, experiment: str) -> Path:
        return self.root / "report" / experiment / "index.html"

    def clip(self, experiment: str) -> Path:
        return self.root / "clip" / experiment

    def figure(self, experiment: str, name: str) -> Path:
        return self.root / "report" / experiment / f"{name}.svg"

    def log(self, stage: str, cell: Cell) -> Path:
        """What a job of a stage said."""
        return self._record("logs", stage, cell, "log")

    def benchmark(self, stage: str, cell: Cell) -> Path:
        """What a job took: see `running.benchmark`."""
        return self._record("benchmarks", stage, cell, "tsv")

    def measured(self, stage: str, model: str, method: str = "*") -> Iterator[Cell]:
        """Cells of any experiment of which a job was measured, with a model and a method."""
        labels = [model, *["*"] * (STAGES[stage] - 2), method][: STAGES[stage]]
        pattern = self.benchmark(stage, Cell(*labels, *[""] * (len(CELL_LABELS) - len(labels))))
        before = len(labels[:3])  # labels before the stage's name
        for path in self.root.glob(str(pattern.relative_to(self.root))):
            _, *parts = path.relative_to(self.root).with_suffix("").parts
            found = [*parts[:before], *parts[before + 1 :]]
            found[3:4] = [seed.removeprefix("seed_") for seed in found[3:4]]
            yield Cell(*found, *[""] * (len(CELL_LABELS) - len(found)))

    def experiment_log(self, command: str, experiment: str) -> Path:
        """What `tables` or `report` said of an experiment."""
        return self.root / "logs" / command / f"{experiment}.log"

    def _record(self, kind: str, stage: str, cell: Cell, suffix: str) -> Path:
        labels = [*vars(cell).values()][: STAGES[stage]]
        repeat = [f"seed_{each}" for each in labels[3:4]]
        folder = self.root.joinpath(kind, *labels[:3], stage, *repeat, *labels[4:])
        return folder.with_name(f"{folder.name}.{suffix}")

    def _trained(self, cell: Cell, stage: str) -> Path:
        return self.repeat(cell) / stage / cell.protection / cell.purification / cell.trainer


CELL_LABELS = tuple(Cell.__dataclass_fields__)
REPEATED = ("identity", "seed")  # what a cell of the study is repeated over
METHOD_LABELS = ("protection", "purification", "trainer")

PHOTO_LABELS = CELL_LABELS[:-1]  # photos are protected and purified before a trainer sees them


def label(cell: Cell, names: Sequence[str] = CELL_LABELS) -> dict[str, str]:
    """A cell's labels as the first columns of a row."""
    return {name: getattr(cell, name) for name in names}


def prompt_folders(generated: Path) -> list[Path]:
    """The folders of a cell's samples, one per prompt, sorted by prompt key.

    Raises:
        CloakBenchError: there is no such folder, or it is not as a stage left it.
    """
    if not generated.is_dir():
        raise CloakBenchError(f"{generated}: no such folder of samples. Run `cloakbench sample`.")
    verified(generated)
    return sorted(
        p for p in generated.iterdir() if p.is_dir() and not p.name.startswith((".", SNAPSHOT))
    )


def trained(trainer: str) -> str:
    """The label of the training that a trainer's samples are of, which may have gone on."""
    return trainer.partition(SNAPSHOT)[0]
