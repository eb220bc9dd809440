"""The experiment: `config.yaml` after defaults, checked before any work starts."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from cloakbench.data import Dataset
from cloakbench.errors import CloakBenchError, explain_os_error, nearest
from cloakbench.layout import Cell, Controls, Layout
from cloakbench.models import ModelSpec
from cloakbench.outputs import check_writable
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import Protection, protections
from cloakbench.purify import Purifier, purifiers
from cloakbench.registry import Method, Registry, Spec, explain
from cloakbench.sampling import Samples, Sampling
from cloakbench.score.faces import backends
from cloakbench.score.metric import DEFAULT, Metric, build_metrics, metrics
from cloakbench.units import Settings, UserPath

M = TypeVar("M", bound=Method)
Entry = str | list[Any] | dict[str, Any]
"""A method in a list of the config: a name, a list (a chain of purifications), or a spec that may
give itself a `name` and start from a `preset`."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Experiment(Settings):
    """Everything that decides an experiment's results."""

    experiment: str = Field(description="names the folder of the tables and the report")
    results: UserPath = Field(Path("results"), description="folder that all results go to")
    seed: int = Field(0, description="root of all seeds")
    model: str = Field(description="the model that is used, by its name in `models`")
    models: dict[str, ModelSpec] = Field(description="models by name")
    dataset: str = Field(description="the dataset that is used, by its name in `datasets`")
    datasets: dict[str, Dataset] = Field(description="datasets by name")
    identities: list[str] | None = Field(
        None, description="identities that are used; null: all", min_length=1
    )
    preset: str | None = Field(
        None, description="preset of every method that has it, unless its entry says otherwise"
    )
    protections: list[Entry] = Field(description="protections", min_length=1)
    purifications: list[Entry] = Field(description="purifications", min_length=1)
    trainers: list[Entry] = Field(description="trainers", min_length=1)
    prompts: Prompts = Field(default_factory=Prompts, description="see cloakbench.prompts")
    class_images: Sampling = Field(
        default=Sampling(images=200), description="class images for prior preservation"
    )
    sampling: Sampling = Field(default_factory=Sampling, description="how samples are generated")
    faces: Entry = Field("dlib", description="face backend of the identity metrics")
    metrics: list[Entry] = Field(list(DEFAULT), description="metrics", min_length=1)
    keep_weights: bool = Field(
        False, description="keep personalised weights, and sample in another job"
    )

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Experiment:
        """Validate a config; every method of every list is built once, so that typos fail here.

        Raises:
            CloakBenchError: unknown key, method, setting, preset, model or dataset; bad value.
        """
        try:
            experiment = cls.model_validate(dict(config))
        except ValidationError as error:
            raise CloakBenchError(f"config: {explain(error, cls)}") from None
        if not _LABEL.fullmatch(experiment.experiment):
            raise CloakBenchError(
                f"config: experiment '{experiment.experiment}' names a folder: use letters, "
                "digits, and . _ + -"
            )
        experiment._check_preset()
        for identity, times in Counter(experiment.identities).items():
            if times > 1:
                raise CloakBenchError(
                    f"config: identities: '{identity}' is there {times} times. Name it once."
                )
        for key, known in (("model", experiment.models), ("dataset", experiment.datasets)):
            if (chosen := getattr(experiment, key)) not in known:
                raise CloakBenchError(f"config: unknown {key} '{chosen}': {nearest(chosen, known)}")
            if not _LABEL.fullmatch(chosen):
                raise CloakBenchError(
                    f"config: {key} '{chosen}' names a folder: use letters, digits, and . _ + -"
                )
        experiment.methods()
        if not any(metric.judges_samples for metric in experiment.all_metrics):
            raise CloakBenchError("config: metrics: none of them judges samples. Add ism.")
        for trainer in experiment.all_trainers.values():
            Samples(experiment.sampling, experiment.prompts.sample_prompts, **trainer.sampling())
        return experiment

    @classmethod
    def load(cls, *paths: Path) -> Experiment:
        """Read one or more YAML files; later ones override, mappings key by key (as Snakemake)."""
        merged: dict[str, Any] = {}
        for path in paths:
            try:
                content = yaml.safe_load(path.read_text())
            except OSError as error:
                raise CloakBenchError(f"{path}: cannot be read ({error.strerror}).") from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                reason = " ".join(str(error).split())
                raise CloakBenchError(f"{path}: is not valid YAML ({reason}).") from None
            if not isinstance(content, dict):
                raise CloakBenchError(f"{path}: is not a mapping of keys. See config/README.md.")
            _merge(merged, content)
        return cls.parse(merged)

    @classmethod
    def read(cls, sources: Sequence[str]) -> Experiment:
        """From a command line: YAML files to load in order, or one config as JSON."""
        if len(sources) == 1 and sources[0].startswith("{"):
            try:
                return cls.parse(json.loads(sources[0]))
            except json.JSONDecodeError as error:
                raise CloakBenchError(f"the config is not valid JSON ({error}).") from None
        return cls.load(*map(Path, sources))

    @property
    def model_spec(self) -> ModelSpec:
        return self.models[self.model]

    @property
    def dataset_spec(self) -> Dataset:
        return self.datasets[self.dataset]

    @property
    def all_protections(self) -> dict[str, Protection]:
        """Protections by label."""
        return self._build(protections, self.protections)

    @property
    def all_purifiers(self) -> dict[str, Purifier]:
        """Purifiers by label."""
        return self._build(purifiers, self.purifications)

    @property
    def all_trainers(self) -> dict[str, Trainer]:
        """Trainers by label."""
        return self._build(trainers, self.trainers)

    @property
    def all_metrics(self) -> list[Metric]:
        built = self._build(metrics, self.metrics).values()
        return build_metrics([metric.spec() for metric in built])

    @property
    def face_backend(self) -> Any:
        return next(iter(self._build(backends, [self.faces]).values()))

    def methods(self) -> list[Method]:
        """Every method that the experiment names."""
        stages: tuple[Mapping[str, Method], ...] = (
            self.all_protections,
            self.all_purifiers,
            self.all_trainers,
        )
        grid = (method for stage in stages for method in stage.values())
        return [*grid, self.face_backend, *self.all_metrics]

    @property
    def uses_class_images(self) -> bool:
        """Whether any protection or trainer does."""
        return any("class_images" in p.uses for p in self.all_protections.values()) or any(
            trainer.prior_weight > 0 for trainer in self.all_trainers.values()
        )

    @property
    def chosen_identities(self) -> list[str]:
        return self.dataset_spec.identities() if self.identities is None else self.identities

    @property
    def controls(self) -> Controls:
        """The methods that others are compared with."""
        stages = (self.all_protections, self.all_purifiers, self.all_trainers)
        return Controls(*(tuple(k for k, m in s.items() if m.is_control) for s in stages))

    @property
    def budgets(self) -> dict[str, int]:
        """Budgets [grey levels] by the protections' labels."""
        return {label: protection.budget for label, protection in self.all_protections.items()}

    @property
    def layout(self) -> Layout:
        return Layout(self.results)

    @property
    def digests(self) -> Path:
        """A cache of the weight files' SHA-256."""
        return self.results / ".sha256.json"

    def cells(self) -> list[Cell]:
        """The grid, identity by identity."""
        return [
            Cell(self.model, self.dataset, *combination)
            for combination in itertools.product(
                self.chosen_identities,
                self.all_protections,
                self.all_purifiers,
                self.all_trainers,
            )
        ]

    def check(self) -> None:
        """Look for everything that a run reads, so that it fails now and not after hours.

        Raises:
            CloakBenchError: models, identities, photo sets or weights files are missing, or the
                results cannot be written: a line for each.
        """
        problems: dict[str, None] = {}
        for look in (
            self._check_results,
            self.model_spec.check,
            *(method.check for method in self.methods()),
            self._check_sizes,
            self._check_photos,
        ):
            try:
                look()
            except CloakBenchError as error:
                problems[str(error)] = None
        if problems:
            raise CloakBenchError("\nerror: ".join(problems))

    def _check_results(self) -> None:
        try:
            check_writable(self.results / self.model)
        except OSError as error:
            raise CloakBenchError(explain_os_error(error) or str(error)) from None

    def _check_sizes(self) -> None:
        for metric in self.all_metrics:
            if metric.smallest_side > self.model_spec.resolution:
                raise CloakBenchError(
                    f"config: metric '{metric.name}' needs images of {metric.smallest_side} px or "
                    f"more, and model '{self.model}' makes {self.model_spec.resolution} px. Leave "
                    "it out."
                )

    def _check_photos(self) -> None:
        for identity in sorted({*self.chosen_identities, *self.dataset_spec.identities()}):
            self.dataset_spec.sets(identity)  # the others are possible answers to "who is this?"

    def _check_preset(self) -> None:
        stages: tuple[Registry, ...] = (protections, purifiers, trainers, metrics, backends)
        known = {preset for stage in stages for method in stage for preset in method.presets}
        if self.preset is not None and self.preset not in known:
            raise CloakBenchError(
                f"config: unknown preset '{self.preset}': {nearest(self.preset, known)}"
            )

    def _build(self, registry: Registry[M], entries: list[Entry]) -> dict[str, M]:
        built: dict[str, M] = {}
        for entry in entries:
            label, spec = self._label_and_spec(registry, entry)
            if not _LABEL.fullmatch(label):
                raise CloakBenchError(
                    f"config: {registry.kind} '{label}' names a folder: give it a `name` of "
                    "letters, digits, and . _ + -"
                )
            if label in built:
                raise CloakBenchError(
                    f"config: two entries are called {registry.kind} '{label}'. "
                    "Give one of them another `name`."
                )
            built[label] = registry.build(spec)
        return built

    def _label_and_spec(self, registry: Registry[M], entry: Entry) -> tuple[str, Spec]:
        """An entry's label and a spec in which the experiment's preset is applied."""
        if isinstance(entry, list) and registry.kind != purifiers.kind:
            raise CloakBenchError(
                f"config: {json.dumps(entry)} is a list; only purifications are chained. Name one "
                f"{registry.kind}."
            )
        if isinstance(entry, list):
            steps = [self._label_and_spec(registry, step) for step in entry]
            label = "+".join(label for label, _ in steps)
            return label, {"method": "chain", "steps": [spec for _, spec in steps]}
        spec: Spec = {"method": entry} if isinstance(entry, str) else dict(entry)
        label = str(spec.pop("name", "") or spec.get("method", ""))
        if not label:
            raise CloakBenchError(f"config: {json.dumps(entry)} names no `method`.")
        spec["method"] = str(spec.get("method", label))
        if isinstance(links := spec.get("steps"), list):  # a chain with a name
            spec["steps"] = [self._label_and_spec(registry, link)[1] for link in links]
        if self.preset in registry[spec["method"]].presets:
            spec.setdefault("preset", self.preset)
        return label, spec


def _merge(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
