"""The generated schema is in step with the code, and the shipped configs are valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from cloakbench.experiment.catalogue import CONFIG_KEYS, config_schema
from cloakbench.experiment.experiment import Experiment

SCHEMA = REPOSITORY / "workflow" / "schemas" / "config.schema.json"
COMMAND = "cloakbench schema --force --out workflow/schemas/config.schema.json"
DEFAULT = REPOSITORY / "config.yaml"
OTHERS = [p for p in sorted((REPOSITORY / "config").glob("*.yaml")) if not p.is_symlink()]


def test_the_schema_is_what_the_code_generates():
    stored = json.loads(SCHEMA.read_text()) if SCHEMA.exists() else None

    assert stored == json.loads(json.dumps(config_schema())), f"out of date: run `{COMMAND}`"


@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_the_schema_lists_every_method_with_its_settings(key):
    entries = config_schema()["properties"][key]["items"]["anyOf"]

    names = next(entry["enum"] for entry in entries if "enum" in entry)
    specs = {e["properties"]["method"]["const"]: e for e in entries if "properties" in e}
    assert names == CONFIG_KEYS[key].names() == sorted(specs)
    for method in CONFIG_KEYS[key]:
        assert method.model_fields.keys() <= specs[method.name]["properties"].keys()


def test_every_key_of_the_schema_is_explained():
    schema = config_schema()
    described = [schema, *schema["$defs"].values()]

    for part in described:
        missing = [k for k, v in part.get("properties", {}).items() if "description" not in v]
        assert not missing


def test_the_default_config_is_valid_and_names_the_bundled_things():
    experiment = Experiment.load(DEFAULT)

    assert experiment.config.model_spec.path == "resources/mini"
    assert {"clean", "noise"} <= set(experiment.protections)
    assert "none" in experiment.purifiers


@pytest.mark.parametrize("path", OTHERS, ids=[path.stem for path in OTHERS])
def test_every_other_config_is_valid_laid_over_the_default(path: Path):
    Experiment.load(DEFAULT, path)

    own_name = yaml.safe_load(path.read_text()).get("experiment")
    assert own_name == path.stem, "two experiments of one name would share a folder"
