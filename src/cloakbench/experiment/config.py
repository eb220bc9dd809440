"""The config of an experiment, `config.yaml` after defaults: its keys, and how files are merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictInt, ValidationError

from cloakbench.errors import CloakBenchError, nearest
from cloakbench.experiment.data import Dataset
from cloakbench.files.layout import BESIDE_MODELS
from cloakbench.files.reading import check_data, parse_json, parse_yaml
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.names import MARKS, check_name, check_path
from cloakbench.plugins import load_file
from cloakbench.prompts import Prompts
from cloakbench.registry import explain
from cloakbench.score.base import DEFAULT
from cloakbench.settings import Settings, UserPath

Entry = str | list[Any] | dict[str, Any]
"""A method in a list of the config: a name, a list (a chain of purifications), or a spec that may
give itself a `name` and start from a `preset`."""

_TAKEN = {
    "model": BESIDE_MODELS,
    "dataset": ("class_images",),
}
"""Folders that lie beside those of models and datasets."""


class Config(Settings):
    """Everything that decides an experiment's results."""

    experiment: str = Field(description="names the folder of the tables and the report")
    plugins: list[UserPath] = Field(
        [], description="Python files that add methods, beside those of installed packages"
    )
    results: UserPath = Field(Path("results"), description="folder that all results go to")
    seeds: list[Annotated[StrictInt, Field(ge=0)]] = Field(
        [0], description="roots of all draws: every cell is repeated with each", min_length=1
    )
    model: str = Field(description="the model that is used, by its name in `models`")
    models: dict[str, ModelSpec] = Field(description="models by name")
    dataset: str = Field(description="the dataset that is used, by its name in `datasets`")
    datasets: dict[str, Dataset] = Field(description="datasets by name")
    identities: list[str] | str | None = Field(
        None,
        description="identities that are used, or a group of the dataset's groups.json; null: all",
        min_length=1,
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
    claims: UserPath | None = Field(
        None, description="a file of claims that the experiment decides, written before it runs"
    )
    reported: UserPath | None = Field(
        None, description="a file of values that others report, to stand beside the measured ones"
    )
    keep_weights: bool = Field(
        False, description="keep personalised weights, and sample in jobs of their own"
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Config:
        """Check a config's keys and values; its methods are checked as an `Experiment` is built.

        Raises:
            CloakBenchError: unknown key, model or dataset; bad value, or a name or path that no
                folder can have.
        """
        check_data(data, "config")
        try:
            config = cls.model_validate(dict(data))
        except ValidationError as error:
            raise CloakBenchError(f"config: {explain(error, cls)}") from None
        config._check_names()
        for file in config.plugins:
            load_file(file)
        return config

    def _check_names(self) -> None:
        check_label("experiment", self.experiment)
        for identity, times in Counter(self._named).items():
            check_label("identity", identity, f"{MARKS}@() ")
            if times > 1:
                raise CloakBenchError(
                    f"config: identities: '{identity}' is there {times} times. Name it once."
                )
        for seed, times in Counter(self.seeds).items():
            if times > 1:
                raise CloakBenchError(
                    f"config: seeds: {seed} is there {times} times. Name it once."
                )
        for key, known in (("model", self.models), ("dataset", self.datasets)):
            if (chosen := getattr(self, key)) not in known:
                raise CloakBenchError(f"config: unknown {key} '{chosen}': {nearest(chosen, known)}")
            check_label(key, chosen)
            if chosen in _TAKEN[key]:
                raise CloakBenchError(
                    f"config: {key} '{chosen}' is the name of another folder of results. Call it "
                    f"my_{chosen}."
                )
        for key, path in (("results", self.results), ("dataset's path", self.dataset_spec.path)):
            try:
                check_path(path)
            except ValueError as error:
                raise CloakBenchError(f"config: {key} '{path}' {error}.") from None

    @property
    def model_spec(self) -> ModelSpec:
        """The model that is used."""
        return self.models[self.model]

    @property
    def dataset_spec(self) -> Dataset:
        """The dataset that is used."""
        return self.datasets[self.dataset]

    @property
    def chosen_identities(self) -> list[str]:
        """The identities that are used, by name."""
        if isinstance(self.identities, str):
            return self.dataset_spec.group(self.identities)
        return self._named or self.dataset_spec.identities()

    @property
    def _named(self) -> list[str]:
        return self.identities if isinstance(self.identities, list) else []


def check_label(what: str, label: str, marks: str = MARKS) -> None:
    """Refuse what cannot name a folder.

    Raises:
        CloakBenchError: see `check_name`; it says what is called so.
    """
    try:
        check_name(label, marks)
    except ValueError as error:
        raise CloakBenchError(f"config: {what} '{label}' {error}.") from None


def load(paths: Iterable[Path]) -> dict[str, Any]:
    """Merge YAML files; later ones override, mappings key by key (as Snakemake).

    Raises:
        CloakBenchError: a file cannot be read, or is no mapping in YAML; see `parse_yaml`.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise CloakBenchError(f"{path}: cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError as error:
            raise CloakBenchError(f"{path}: is not valid YAML ({error}).") from None
        content = parse_yaml(text, str(path))
        if not isinstance(content, dict):
            raise CloakBenchError(f"{path}: is not a mapping of keys. See config/README.md.")
        _merge(merged, content)
    return merged


def read(sources: Sequence[str]) -> dict[str, Any]:
    """What a command line names: YAML files to merge in order, or one config as JSON.

    Raises:
        CloakBenchError: see `load` and `parse_json`.
    """
    if len(sources) == 1 and sources[0].startswith("{"):
        return dict(parse_json(sources[0], "the config"))
    merged = load(map(Path, sources))
    missing = [k for k, f in Config.model_fields.items() if f.is_required() and k not in merged]
    if len(missing) > 1 and len(sources) == 1:
        raise CloakBenchError(
            f"config: {sources[0]} has no key '{missing[0]}', nor {len(missing) - 1} others: it "
            f"holds differences only. Lay it over the default: config.yaml {sources[0]}"
        )
    return merged


def _merge(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
