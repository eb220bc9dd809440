"""An experiment's jobs: what goes into them, and where their results are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cloakbench.files.layout import CELL_LABELS, SETS, STAGES, Cell
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.verified import beside

if TYPE_CHECKING:
    from cloakbench.experiment.experiment import Experiment


class Task(NamedTuple):
    """A job of the workflow that runs a stage; `cell` has only the labels that name the job."""

    stage: str
    cell: Cell

    @property
    def label(self) -> str:
        """The last of its labels: the method that decides how long the job takes."""
        return [*vars(self.cell).values()][STAGES[self.stage] - 1]


def all_tasks(experiment: Experiment) -> dict[str, list[Task]]:
    """The jobs of every stage, as the workflow's rules have them."""
    cells, models = experiment.cells(), experiment.models_of_class_images
    tasks = {
        stage: list(dict.fromkeys(task_of(stage, cell, experiment) for cell in cells))
        for stage in STAGES
        if stage != "sample" or experiment.config.keep_weights  # else `personalise` samples
        if stage != "class_images" or models
        if stage != "references" or experiment.uses_references
    }
    if models:
        tasks["class_images"] = [_class_images_of(name) for name in models]
    if experiment.uses_references:  # which are of all people
        everyone = experiment.config.dataset_spec.identities()
        first = tasks["data"][0].cell
        tasks["data"] = [Task("data", replace(first, identity=identity)) for identity in everyone]
    return tasks


def model_of(task: Task, experiment: Experiment) -> str:
    """The name of the model that a job runs."""
    if task.stage == "protect":
        return experiment.surrogates[task.label]
    return task.cell.model


def task_of(stage: str, cell: Cell, experiment: Experiment) -> Task:
    """A stage's job that a cell needs: cells share the job whose labels they share."""
    if stage == "personalise":  # once for all samples of a training
        cell = replace(cell, trainer=experiment.trainings[cell.trainer])
    labels, values = STAGES[stage], [*vars(cell).values()]
    return Task(stage, Cell(*values[:labels], *[""] * (len(values) - labels)))


def result(task: Task, experiment: Experiment) -> Path:
    """The file that shows that a job is done."""
    cell, layout = task.cell, experiment.layout
    match task.stage:
        case "class_images":
            folder = layout.class_images(cell.model, experiment.config.prompts.class_noun)
        case "data":
            folder = layout.data(cell)
        case "protect":
            folder = layout.protected(cell)
        case "purify":
            folder = layout.purified(cell)
        case "personalise" if experiment.config.keep_weights:
            folder = layout.personalised(cell)
        case "personalise" | "sample":
            folder = layout.generated(cell)
        case "references":
            return layout.references(cell)
        case "distances":
            return layout.distances(cell)
        case "score":
            return layout.scores(cell)
    return folder / MANIFEST


def manifest(task: Task, experiment: Experiment) -> Path:
    """The manifest of a job's result."""
    path = result(task, experiment)
    return path if path.name == MANIFEST else beside(path)


def inputs(task: Task, experiment: Experiment) -> dict[str, tuple[Task, Path]]:
    """The jobs whose results go into a job's result, and where: by what they are to it."""
    cell, layout = task.cell, experiment.layout

    def of(stage: str) -> Task:
        return task_of(stage, cell, experiment)

    data = {name: (of("data"), layout.data(cell) / name) for name in SETS}
    match task.stage:
        case "references":
            everyone = experiment.config.dataset_spec.identities()
            cells = {each: replace(cell, identity=each) for each in everyone}
            return {each: (Task("data", own), layout.data(own)) for each, own in cells.items()}
        case "protect":
            uses = experiment.protections[cell.protection].uses
            surrogate = {"surrogate": data["set_A"]} if "surrogate_images" in uses else {}
            own = _class_images_of(experiment.surrogates[cell.protection])
            prior = _class_images(own, uses, experiment)
            return {"instance": data["set_B"], **surrogate, **prior}
        case "purify":
            return {"photos": (of("protect"), layout.protected(cell))}
        case "distances":
            return {"photos": (of("purify"), layout.purified(cell)), "originals": data["set_B"]}
        case "personalise":
            uses = experiment.trainers[cell.trainer].uses
            prior = _class_images(of("class_images"), uses, experiment)
            return {"instance": (of("purify"), layout.purified(cell)), **prior}
        case "sample":
            training = of("personalise")
            return {"weights": (training, layout.personalised(training.cell))}
        case "score":
            sampled = of("sample" if experiment.config.keep_weights else "personalise")
            samples = {"samples": (sampled, layout.generated(cell))}
            references = {"references": (of("references"), layout.references(cell))}
            of_faces = references if experiment.uses_references else {}
            return {**samples, **of_faces, "photos": data["set_C"]}
    return {}


def folders(task: Task, experiment: Experiment) -> Mapping[str, Path]:
    """The user's folders that go into a job's result, by the settings that name them."""
    cell = task.cell
    match task.stage:
        case "protect":
            return experiment.protections[cell.protection].of(cell).folders
        case "purify":
            return experiment.purifiers[cell.purification].of(cell).folders
    return {}


def _class_images_of(model: str) -> Task:
    return Task("class_images", Cell(model, *[""] * (len(CELL_LABELS) - 1)))


def _class_images(
    task: Task, uses: frozenset[str], experiment: Experiment
) -> dict[str, tuple[Task, Path]]:
    """The class images, if a method uses them."""
    folder = result(task, experiment).parent / "class"
    return {"class_images": (task, folder)} if "class_images" in uses else {}
