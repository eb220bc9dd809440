"""The experiment that a config describes: its methods, its grid, and what it needs to run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cloakbench.errors import CloakBenchError, every, explain_os_error, nearest
from cloakbench.experiment.claims import Ledger, Measured, read_as
from cloakbench.experiment.config import Config, Entry, check_label, load, read
from cloakbench.experiment.data import check_distinct, prepared_names
from cloakbench.experiment.reported import Reported
from cloakbench.faces import backends
from cloakbench.files.layout import SNAPSHOT, Cell, Controls, Layout, trained
from cloakbench.files.outputs import check_writable
from cloakbench.files.weights import sha256_of
from cloakbench.finished import Finished
from cloakbench.models.sampling import Samples
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tokens import check_prompts
from cloakbench.personalise import Trainer, trainers
from cloakbench.phrase import Contrastive
from cloakbench.protect import protections
from cloakbench.protect.ascent import Ascent
from cloakbench.purify import purifiers
from cloakbench.registry import Method, Registry, Spec
from cloakbench.running.run import DIGESTS
from cloakbench.score.base import build_metrics, check_strangers, metrics, photo_metrics

M = TypeVar("M", bound=Method)

REGISTRIES: tuple[Registry[Any], ...] = (protections, purifiers, trainers, metrics, backends)
_NESTED = ("steps", "through")  # lists of purifications: a chain's, and what a loss looks through


class Experiment:
    """A config's methods, built once, and the grid that they span.

    config: what it was built from.
    layout: where its results are.
    digests: a cache of the SHA-256 of weights and photos.
    surrogates: by protection, the name of the model that it is made on, if it needs one.
    protections, purifiers, trainers: by label, in the config's order; before a trainer, what its
        snapshots are samples of, as `cdl@50`.
    faces: the face backend.
    metrics: those that the config names, of samples and of photos.
    claims: what the experiment decides; None where it names no file of them.
    reported: what others report of its cells; None as well.
    """

    def __init__(self, config: Config) -> None:
        """
        Raises:
            CloakBenchError: unknown method, setting or preset; a bad value; two entries of one
                name; no metric of samples, or one that the face backend does not suit; a negative
                prompt that does nothing; snapshots where weights are kept.
        """
        self.config = config
        self.layout = Layout(config.results)
        self.digests = self.layout.scratch / DIGESTS
        _check_preset(config.preset)
        entries, models = zip(*map(self._surrogate, config.protections), strict=True)
        noun = config.prompts.class_noun
        made = self._build(protections, entries)
        self.protections = {label: protection.of_class(noun) for label, protection in made.items()}
        self.surrogates = dict(zip(self.protections, models, strict=True))
        self._check_surrogates()
        built = self._build(purifiers, config.purifications)
        self.purifiers = {label: purifier.of_class(noun) for label, purifier in built.items()}
        self.trainers = _with_snapshots(self._build(trainers, config.trainers), config.keep_weights)
        self._check_learning()
        self.trainings = _trainings(self.trainers, config.keep_weights)
        [self.faces] = self._build(backends, [config.faces]).values()
        named = self._build(metrics, config.metrics).values()
        self.metrics = build_metrics([metric.of_class(noun).spec() for metric in named])
        if not any(metric.judges_samples for metric in self.metrics):
            raise CloakBenchError("config: metrics: none of them judges samples. Add ism.")
        check_strangers(self.metrics, self.faces.strangers, self.faces.name)
        self.claims = self._claims()
        told = config.reported
        self.reported = None if told is None else read_as(Reported, told)
        for trainer in self.trainers.values():
            Samples(config.sampling, config.prompts.sample_prompts, **trainer.sampling())

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Experiment:
        """From a config as plain data, which it checks as far as no file is needed.

        Raises:
            CloakBenchError: unknown key, method, setting, preset, model or dataset; bad value.
        """
        return cls(Config.parse(data))

    @classmethod
    def load(cls, *paths: Path) -> Experiment:
        """From YAML files; see `config.load` and `parse`."""
        return cls.parse(load(paths))

    @classmethod
    def read(cls, sources: Sequence[str]) -> Experiment:
        """From a command line; see `config.read` and `parse`."""
        return cls.parse(read(sources))

    @property
    def name(self) -> str:
        """The name of its folders of tables and report."""
        return self.config.experiment

    @property
    def stages(self) -> dict[str, Mapping[str, Method]]:
        """What the labels of cells stand for."""
        return {
            "protection": self.protections,
            "purification": self.purifiers,
            "trainer": self.trainers,
        }

    def methods(self) -> list[Method]:
        """Every method that the experiment names."""
        grid = (method for stage in self.stages.values() for method in stage.values())
        return [*grid, self.faces, *self.metrics]

    @property
    def models_of_class_images(self) -> list[str]:
        """The models of which a method uses class images; the studied one first."""
        trained = any("class_images" in trainer.uses for trainer in self.trainers.values())
        made_on = [
            self.surrogates[k] for k, m in self.protections.items() if "class_images" in m.uses
        ]
        return [*dict.fromkeys([self.config.model] * trained + made_on)]

    @property
    def uses_references(self) -> bool:
        """Whether any metric compares faces with those of clean photos."""
        return any(metric.needs_reference for metric in self.metrics)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """All models that are used, by name; the studied one first."""
        return {name: self.config.models[name] for name in self._models_used()}

    def _check_learning(self) -> None:
        """A trainer that learns nothing has one cell, whatever the photos: see `_combinations`."""
        others = [*self.protections][1:] + [*self.purifiers][1:]
        if others and not any(trainer.learns for trainer in self.trainers.values()):
            raise CloakBenchError(
                "config: trainers: none of them learns from photos, so that no "
                f"'{others[0]}' would run. Add dreambooth; `cloakbench protect`, `purify` and "
                "`distances` work by hand."
            )

    def _check_surrogates(self) -> None:
        for label, name in self.surrogates.items():
            if name != self.config.model and "model" not in self.protections[label].uses:
                raise CloakBenchError(
                    f"config: protection '{label}' runs no model. Leave out `model: {name}`."
                )

    def _models_used(self) -> dict[str, None]:
        running = [k for k, method in self.protections.items() if "model" in method.uses]
        return dict.fromkeys([self.config.model, *(self.surrogates[k] for k in running)])

    @property
    def controls(self) -> Controls:
        """The methods that others are compared with."""
        known = (
            tuple(k for k, m in stage.items() if m.is_control and trained(k) == k)
            for stage in self.stages.values()
        )
        return Controls(*known)._replace(floor=self._floor)

    @property
    def _floor(self) -> tuple[str, ...]:
        """Trainers that learn nothing."""
        return tuple(label for label, trainer in self.trainers.items() if not trainer.learns)

    @property
    def budgets(self) -> dict[str, int]:
        """Budgets [grey levels] by the protections' labels."""
        return {label: protection.budget for label, protection in self.protections.items()}

    @property
    def adapted(self) -> dict[str, str]:
        """Protections that adapt to a purification or to CDL, and which are the same but for that,
        by their labels.
        """
        plain = {key: p.plain() for key, p in self.protections.items() if isinstance(p, Ascent)}
        return {
            label: other
            for label, of in plain.items()
            for other, method in self.protections.items()
            if other != label and method == of and self.surrogates[other] == self.surrogates[label]
        }

    @property
    def steps(self) -> dict[str, float]:
        """Shares of the default's gradient steps, by the labels of protections that take any."""
        shares = {label: method.steps_share for label, method in self.protections.items()}
        return {label: share for label, share in shares.items() if share is not None}

    def cells(self) -> list[Cell]:
        """The grid, identity by identity; see `_combinations`.

        Raises:
            CloakBenchError: all identities are wanted, and the dataset's folder is missing.
        """
        return [
            Cell(self.config.model, self.config.dataset, identity, str(seed), *methods)
            for identity in self.config.chosen_identities
            for seed in self.config.seeds
            for methods in self._combinations()
        ]

    def _combinations(self) -> list[tuple[str, str, str]]:
        """Protections, purifications and trainers. Trainers that learn nothing are there once: they
        make the same samples whatever the photos.
        """
        photos = next(iter(self.protections)), next(iter(self.purifiers))
        combinations = itertools.product(self.protections, self.purifiers, self.trainers)
        return [each for each in combinations if each[2] not in self._floor or each[:2] == photos]

    def _claims(self) -> Ledger | None:
        if self.config.claims is None:
            return None
        ledger = Ledger.read(self.config.claims)
        combinations = self._combinations()
        samples = Measured(
            ["/".join(each) for each in combinations],
            [metric.name for metric in self.metrics if metric.judges_samples],
        )
        photos = Measured(
            ["/".join(each[:2]) for each in combinations],
            [metric.name for metric in photo_metrics(self.metrics)],
        )
        ledger.check(self.name, samples, photos, self.config.prompts.sample)
        return ledger

    def originals(self) -> list[Path]:
        """Folders that are read and never written: the people's photos and the model."""
        folders = [folder for model in self.models.values() for folder in model.folders()]
        return [self.config.dataset_spec.folder, *folders]

    def check(self) -> None:
        """Look for everything that a run reads, so that it fails now and not after hours.

        Raises:
            CloakBenchError: models, identities, photo sets or weights files are missing, two sets
                share a photo, or the results cannot be written: a line for each.
        """
        self._check_results()  # before anything is written there
        every(
            [
                *(model.check for model in self.models.values()),
                *(method.check for method in self.methods()),
                self._check_prompts,
                self._check_sizes,
                self._check_photos,
                self._check_finished,
            ]
        )

    def _check_results(self) -> None:
        written = [folder for name in self.models for folder in self.layout.folders(name)]
        paths = [Path(model.path) for model in self.models.values()]
        named = [self.config.dataset_spec.path, *paths]
        for needed in (*self.originals(), *named):  # a folder of that name would hide a bundled one
            if _is_in(self.config.results, needed) or any(_is_in(needed, each) for each in written):
                raise CloakBenchError(
                    f"config: results '{self.config.results}' would be written into {needed}, or "
                    "over it. Choose another folder."
                )
        try:
            check_writable(self.config.results / self.config.model)
        except OSError as error:
            raise CloakBenchError(explain_os_error(error) or str(error)) from None

    def _check_prompts(self) -> None:
        prompts, sampling = self.config.prompts, self.config.sampling
        texts = [prompts.instance_prompt, prompts.class_prompt]
        for protection in self.protections.values():
            if isinstance(protection, Contrastive):
                texts += [protection.instance_prompt(prompts), protection.class_prompt(prompts)]
        for trainer in self.trainers.values():
            samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
            texts += [*trainer.training_prompts(prompts).values(), *samples.texts.values()]
            texts.append(samples.negative_prompt)
        for model in self.models.values():
            check_prompts(model, texts)

    def _check_sizes(self) -> None:
        side = self.config.model_spec.resolution
        for name, model in self.models.items():
            if (other := model.resolution) != side:
                raise CloakBenchError(
                    f"config: model '{name}' makes {other} px, and '{self.config.model}' {side} "
                    "px, but photos have one size. Leave it out of the protections."
                )
        for metric in self.metrics:
            if metric.smallest_side > side:
                raise CloakBenchError(
                    f"config: metric '{metric.name}' needs images of {metric.smallest_side} px or "
                    f"more, and model '{self.config.model}' makes {side} px. Leave it out."
                )

    def _check_photos(self) -> None:
        dataset = self.config.dataset_spec
        everyone = sorted({*self.config.chosen_identities, *dataset.identities()})
        people = [dataset.sets(each) for each in everyone]  # who all may answer "who is this?"
        photos = [path for sets in people for files in sets.values() for path in files]
        digests = sha256_of(photos, self.digests)
        for sets in people:
            check_distinct(sets, digests)

    def _check_finished(self) -> None:
        """Look at the photos of other tools that methods read."""
        methods = [*self.protections.values(), *self.purifiers.values()]
        places = [folder for method in methods for folder in method.folders.values()]
        if not places or not all(folder.is_dir() for folder in places):  # which is told already
            return
        side, found = self.config.model_spec.resolution, dict[Path, str]()
        problems: dict[str, None] = {}
        for cell in dict.fromkeys(replace(cell, seed="", trainer="") for cell in self.cells()):
            photos = prepared_names(len(self.config.dataset_spec.sets(cell.identity)["set_B"]))
            protection = self.protections[cell.protection].of(cell)
            purifier = self.purifiers[cell.purification].of(cell)
            try:
                for method in (protection, purifier):
                    if isinstance(method, Finished):
                        method.check_photos(photos, (side, side))
                if isinstance(purifier, Finished):
                    _check_own(purifier.path, cell.protection, found)
            except CloakBenchError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise CloakBenchError(*problems)

    def _build(self, registry: Registry[M], entries: Sequence[Entry]) -> dict[str, M]:
        built: dict[str, M] = {}
        for entry in entries:
            label, spec = self._label_and_spec(registry, entry)
            check_label(registry.kind, label)
            if label in built:
                raise CloakBenchError(
                    f"config: two entries are called {registry.kind} '{label}'. "
                    "Give one of them another `name`."
                )
            built[label] = registry.build(spec)
        return built

    def _surrogate(self, entry: Entry) -> tuple[Entry, str]:
        """A protection's entry without the model that it names, and that model's name."""
        name, known = self.config.model, self.config.models
        if isinstance(entry, dict) and "model" in entry:
            name = str(entry["model"])
            entry = {key: value for key, value in entry.items() if key != "model"}
        if name not in known:
            raise CloakBenchError(
                f"config: protections: unknown model '{name}': {nearest(name, known)}"
            )
        return entry, name

    def _label_and_spec(self, registry: Registry, entry: Entry) -> tuple[str, Spec]:
        """An entry's label and a spec in which the experiment's preset is applied."""
        if isinstance(entry, list) and registry.kind != purifiers.kind:
            raise CloakBenchError(
                f"config: {json.dumps(entry, default=str)} is a list; only purifications are "
                f"chained. Name one {registry.kind}."
            )
        if isinstance(entry, list):
            links = [self._label_and_spec(registry, link) for link in entry]
            label = "+".join(label for label, _ in links)
            return label, {"method": "chain", "steps": [spec for _, spec in links]}
        spec: Spec = dict(entry) if isinstance(entry, dict) else {"method": entry}
        label = str(spec.pop("name", "") or spec.get("method", ""))
        if not label:
            raise CloakBenchError(f"config: {json.dumps(entry, default=str)} names no `method`.")
        if isinstance(entry, dict) and "method" not in spec and label not in registry.names():
            raise CloakBenchError(
                f"config: {json.dumps(entry, default=str)} names no `method`, and its name is none."
            )
        spec["method"] = str(spec.get("method", label))
        parts = spec["method"].split("+")
        if len(parts) > 1 and {*parts} <= {*registry.names()}:
            raise CloakBenchError(
                f"config: unknown {registry.kind} '{spec['method']}'. Write a chain as a list: "
                f"[{', '.join(parts)}]."
            )
        method = registry[spec["method"]]
        if isinstance(own := spec.get("preset"), str) and own in method.variants:
            spec = {**method.variants[own], **spec}
            del spec["preset"]
        for key in _NESTED:
            if isinstance(nested := spec.get(key), list):
                spec[key] = [self._label_and_spec(purifiers, each)[1] for each in nested]
        if self.config.preset in method.presets:
            spec.setdefault("preset", self.config.preset)
        return label, spec


def _with_snapshots(named: Mapping[str, Trainer], keep_weights: bool) -> dict[str, Trainer]:
    made: dict[str, Trainer] = {}
    for label, trainer in named.items():
        earlier = trainer.earlier()
        if earlier and keep_weights:
            raise CloakBenchError(
                f"config: trainer '{label}' has snapshots, which are sampled as it is trained. Set "
                "keep_weights to false."
            )
        made |= {f"{label}{SNAPSHOT}{step}": each for step, each in earlier.items()}
        made[label] = trainer
    return made


def _trainings(named: Mapping[str, Trainer], keep_weights: bool) -> dict[str, str]:
    """The trainer whose job makes the weights of each: the first one that trains them alike, if
    they are kept, or else the one whose snapshot it is.
    """
    if not keep_weights:
        return {label: trained(label) for label in named}
    made: dict[str, str] = {}
    specs = {k: json.dumps(each.training_spec(), sort_keys=True) for k, each in named.items()}
    return {label: made.setdefault(spec, label) for label, spec in specs.items()}


def _check_own(folder: Path, protection: str, found: dict[Path, str]) -> None:
    """See that purified photos are those of one protection; notes whose they are."""
    if (other := found.setdefault(folder, protection)) != protection:
        raise CloakBenchError(
            f"{folder}: is read for the protections '{other}' and '{protection}', whose purified "
            f"photos differ. Put those of each into {folder.parent / protection / folder.name}, "
            "and so on."
        )


def _is_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _check_preset(preset: str | None) -> None:
    known = {name for stage in REGISTRIES for method in stage for name in method.presets}
    if preset is not None and preset not in known:
        raise CloakBenchError(f"config: unknown preset '{preset}': {nearest(preset, known)}")
