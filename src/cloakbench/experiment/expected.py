"""What an experiment's results should be made of, and whether those that are there are.

Results tell it themselves, in their manifests: they may be moved, touched or restored from a
backup, and the workflow's own books may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError
from cloakbench.experiment import data
from cloakbench.experiment.tasks import (
    Task,
    all_tasks,
    folders,
    inputs,
    manifest,
    model_of,
    result,
)
from cloakbench.files.digest import code_digest
from cloakbench.files.layout import CLASS_SEED, PHOTO_LABELS, label
from cloakbench.files.outputs import MANIFEST, sha256
from cloakbench.files.verified import Source, is_whole, load_manifest, read_source
from cloakbench.files.weights import sha256_of
from cloakbench.models.sampling import Samples
from cloakbench.running.record import Facts, Record, difference
from cloakbench.score import photos, references, samples
from cloakbench.score.base import photo_metrics
from cloakbench.stages import generate, personalise, protect, purify, sample

if TYPE_CHECKING:
    from cloakbench.experiment.experiment import Experiment

SHOWN = 5  # results that a message names
OF_METHODS = frozenset({"protect", "purify", "personalise", "sample"})  # whose label is a method's


class Expected:
    """The records of an experiment's results, made as they are asked for."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._facts: dict[tuple[str, str], Facts] = {}
        self._records: dict[Task, Record] = {}
        self._sources: dict[Path, Source] = {}

    def record(self, task: Task) -> Record:
        """What a job's result should be made of, as its manifest has to say.

        Raises:
            CloakBenchError: weights or photos are missing.
        """
        if task not in self._records:
            self._records[task] = self._photos(task) if task.stage == "data" else self._made(task)
        return self._records[task]

    def outdated(self, task: Task) -> str:
        """Why a result that is there is not what this experiment makes, in words; "" if it is."""
        path = result(task, self.experiment)
        said = load_manifest(manifest(task, self.experiment))
        if said is None:
            return "its manifest is missing or damaged"
        if why := difference(self.record(task), said):
            return why
        for name, (made, place) in inputs(task, self.experiment).items():
            if result(made, self.experiment).exists() and not self._is_same(place, said, name):
                return f"its {name} have changed since"
        if path.name != MANIFEST and said["files"] != {path.name: sha256(path)}:
            return "it was changed"  # small enough to look, unlike folders
        return ""

    def has_tables(self) -> bool:
        """Whether the tables are there, and are what this experiment makes."""
        return _holds(self.experiment.layout.tables(self.experiment.name), self.tables)

    def has_report(self) -> bool:
        """Whether the report is there, and is what this experiment makes."""
        return _holds(self.experiment.layout.report(self.experiment.name).parent, self.report)

    def check(self, *stages: str) -> None:
        """Look whether the results of stages, where they are there, are this experiment's.

        Raises:
            CloakBenchError: a line for each that is not, and what to do.
        """
        tasks = all_tasks(self.experiment)
        there = {
            path: task
            for stage in stages
            for task in tasks.get(stage, [])
            if (path := result(task, self.experiment)).exists()
        }
        wrong = [f"{p}: {why}" for p, task in there.items() if (why := self.outdated(task))]
        if wrong:
            more = [f"{len(wrong) - SHOWN:,} more like these"] if len(wrong) > SHOWN else []
            advice = "Run snakemake with this config, or name the config that made them."
            raise CloakBenchError(*(f"{each}. {advice}" for each in [*wrong[:SHOWN], *more]))

    def tables(self) -> Record:
        """What the experiment's tables should be made of."""
        experiment, tasks = self.experiment, all_tasks(self.experiment)
        keys = [self.record(task).key for stage in ("score", "distances") for task in tasks[stage]]
        settings = {
            "controls": experiment.controls._asdict(),
            "budgets": experiment.budgets,
            "steps": experiment.steps,
            "claims": experiment.claims and experiment.claims.model_dump(mode="json"),
            "reported": experiment.reported and experiment.reported.model_dump(mode="json"),
        }
        facts = Facts.of("tables", "cloakbench.tables", settings, *experiment.metrics)
        provenance = code_digest("cloakbench.experiment.provenance")
        return Record(
            facts, {"experiment": experiment.name, "provenance": provenance, "cells": keys}
        )

    def report(self) -> Record:
        """What the experiment's report should be made of."""
        facts = Facts.of("report", "cloakbench.report", {}, *self.experiment.metrics)
        return Record(facts, {}, {"tables": Source(self.tables().key, "")})

    def _photos(self, task: Task) -> Record:
        """The record of prepared photos."""
        identity, dataset = task.cell.identity, self.experiment.config.dataset_spec
        sets = dataset.sets(identity)
        digests = sha256_of((p for files in sets.values() for p in files), self.experiment.digests)
        return data.record(self.facts(task), identity, sets, digests)

    def _made(self, task: Task) -> Record:
        """The record of what is made from other results, and from folders of the user's."""
        made = {name: each for name, (each, _) in inputs(task, self.experiment).items()}
        sources = {name: Source(self.record(each).key, "") for name, each in made.items()}
        sources |= {k: read_source(path) for k, path in folders(task, self.experiment).items()}
        return Record(self.facts(task), self._who(task), sources)

    def facts(self, task: Task) -> Facts:
        """What all jobs of a stage with a label have in common, gathered once.

        Raises:
            CloakBenchError: weights are missing.
        """
        kind = (task.stage, task.label if task.stage in {*OF_METHODS, "class_images"} else "")
        if kind not in self._facts:
            self._facts[kind] = self._facts_of(task)
        return self._facts[kind]

    def _who(self, task: Task) -> dict[str, Any]:
        match task.stage:
            case "references":
                return {}
            case "distances":
                return {"labels": label(task.cell, PHOTO_LABELS)}
            case "score":
                return {"labels": label(task.cell)}
            case "class_images":
                return {"identity": "class", "seed": CLASS_SEED}
        return {"identity": task.cell.identity, "seed": int(task.cell.seed)}

    def _facts_of(self, task: Task) -> Facts:
        experiment, config, cell = self.experiment, self.experiment.config, task.cell
        model, prompts = config.models[model_of(task, experiment)], config.prompts
        cache = experiment.digests
        match task.stage:
            case "data":
                resolution = model.resolution
                return data.facts(config.dataset_spec, resolution, experiment.faces, cache)
            case "class_images":
                texts = {"class": prompts.class_prompt}
                return sample.facts(Samples(config.class_images, texts), model, cache)
            case "protect":
                protection = experiment.protections[cell.protection]
                return protect.facts(protection, model, prompts, cache)
            case "purify":
                return purify.facts(experiment.purifiers[cell.purification], model, cache)
            case "references":
                return references.facts(experiment.faces, cache)
            case "distances":
                return photos.facts(photo_metrics(experiment.metrics), cache)
            case "score":
                judges = [metric for metric in experiment.metrics if metric.judges_samples]
                return samples.facts(experiment.faces, judges, cache)
        trainer, sampling = experiment.trainers[cell.trainer], config.sampling
        if task.stage == "sample":
            wanted = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
            return sample.facts(wanted, model, cache)
        if config.keep_weights:
            return personalise.facts(trainer, model, prompts, cache)
        return generate.facts(trainer, sampling, model, prompts, cache)

    def _is_same(self, place: Path, said: dict[str, Any], name: str) -> bool:
        """Whether an input is as it was when it was read."""
        if place not in self._sources:
            try:
                self._sources[place] = read_source(place)
            except CloakBenchError:  # its maker will be told
                return False
        return said["inputs"][name].get("contents") == self._sources[place].contents


def _holds(folder: Path, wanted: Callable[[], Record]) -> bool:
    said = load_manifest(folder / MANIFEST)
    return said is not None and said.get("key") == wanted().key and is_whole(folder)
