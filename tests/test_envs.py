"""The conda environment, the lock file and pyproject.toml name the same packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def _locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", text, re.MULTILINE))


def _wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[<>=]", entry)[0].strip() for entry in project["dependencies"]]


def test_conda_environment_pins_what_the_lock_file_pins():
    entries = yaml.safe_load((ROOT / "envs" / "cloakbench.yaml").read_text())["dependencies"]
    pins = dict(entry.split("==") for entry in entries[-1]["pip"])
    assert pins == {name: _locked()[name] for name in _wanted()}


def test_lock_file_names_no_host_and_hashes_every_package():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index-url" not in text
    packages = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)
