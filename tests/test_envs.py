"""The conda environment, the lock file and pyproject.toml name the same packages; jobs use it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RESOURCES = REPOSITORY / "resources"
ENVIRONMENT = REPOSITORY / "envs" / "cloakbench.yaml"

# A conda whose environments hold one command, `python`, which writes down how it was called.
CONDA = """#!/bin/bash
case "$1 $2" in
    "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
    "config --get") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "--version ") echo conda 25.1.1 ;;
    "clean -y") ;;
    "env create")
        environment=${{@: -1}}
        mkdir -p "$environment/bin"
        cat > "$environment/bin/python" <<- END
		#!/bin/bash
		echo "\\$PYTHONPATH" "\\$1" "\\$2" "\\$3" "\\$6" >> {prefix}/calls
		exec {python} "\\$@"
		END
        chmod +x "$environment/bin/python" ;;
    *) echo "unexpected: conda $*" >&2; exit 1 ;;
esac
"""


def _locked(python: str) -> dict[str, str]:
    """Versions that the lock file gives to a Python of this version on an ordinary Linux."""
    text = (REPOSITORY / "requirements.lock").read_text()
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)(?: ; ([^\\\n]+))?", text, re.MULTILINE)
    return {
        name: pin
        for name, pin, marker in entries
        if not marker or Marker(marker.strip()).evaluate(machine)
    }


def _wanted() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [re.split(r"[<>=]", entry)[0].strip() for entry in project["dependencies"]]


def test_conda_environment_pins_what_the_lock_file_pins():
    entries = yaml.safe_load(ENVIRONMENT.read_text())["dependencies"]
    (python,) = (entry.partition("=")[2] for entry in entries if str(entry).startswith("python="))
    required = [Requirement(entry.split(" --hash")[0]) for entry in entries[-1]["pip"]]
    pins = {each.name: str(each.specifier).removeprefix("==") for each in required}
    assert pins.keys() >= set(_wanted())
    # pip cannot be told to leave it out, as [tool.uv] tells uv
    assert pins.items() - _locked(python).items() == {("opencv-python", pins["opencv-python"])}
    assert all(" --hash=sha256:" in entry for entry in entries[-1]["pip"])


def test_conda_environment_pins_whatever_its_packages_ask_for():
    """With hashes, pip refuses a package that is asked for and not pinned."""
    entries = yaml.safe_load(ENVIRONMENT.read_text())["dependencies"][-1]["pip"]
    pinned = {canonicalize_name(Requirement(each.split(" --hash")[0]).name) for each in entries}
    machine = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}
    asked = [
        (owner, requirement)
        for owner in sorted(pinned & {canonicalize_name(d.name) for d in distributions()})
        for requirement in map(Requirement, requires(owner) or [])
        if requirement.marker is None or requirement.marker.evaluate(machine)
    ]

    assert len(asked) > 100
    assert [(o, str(r)) for o, r in asked if canonicalize_name(r.name) not in pinned] == []


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-slurm.lock", "requirements-browser.lock"]
)
def test_lock_file_names_no_host_and_hashes_every_package(lock):
    text = (REPOSITORY / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    packages = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)


def test_what_the_package_imports_is_among_what_it_needs():
    """Else it is missing where pip installs the wheel alone."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    more = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    named = {canonicalize_name(Requirement(e).name) for e in [*project["dependencies"], *more]}
    owners = packages_distributions()
    for path in (REPOSITORY / "src" / "cloakbench").rglob("*.py"):
        for module in re.findall(r"^ *(?:from|import) ([a-z_0-9]+)", path.read_text(), re.M):
            found = {canonicalize_name(name) for name in owners.get(module, [])}
            assert not found or found & named, f"{path}: {module} is of {found}"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """Run `make` in a folder with the Makefile alone; what it says."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "config").symlink_to(REPOSITORY / "config")
    wrong = tmp_path / "wrong-python"  # which fails at every question
    wrong.write_text("#!/bin/sh\nexit 1\n")
    wrong.chmod(0o755)

    def run(*arguments: str) -> str:
        done = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True)
        return done.stdout + done.stderr

    return run


def test_a_python_that_will_not_do_is_named_before_anything_is_installed(make, tmp_path: Path):
    assert "error: PYTHON=./wrong-python: no Python 3.11" in make("setup", "PYTHON=./wrong-python")

    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "bin" / ".ready").touch()
    assert "error" not in make("setup")
    assert "its Python is not PYTHON=./wrong-python" in make("setup", "PYTHON=./wrong-python")

    (tmp_path / ".venv" / "bin" / "python").unlink()
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "wrong-python")
    assert "error: .venv: its Python is older than 3.11" in make("setup")


def test_help_has_a_line_for_every_target_and_how_long_studies_take(make):
    lines = {line.split()[0]: line for line in make("help").splitlines()}

    assert {"setup", "demo", "test", "behaviour", "claims", "purified-clean"} <= lines.keys()
    assert lines["demo"].endswith("(a quarter of an hour on two CPU cores)")
    assert lines["budgets"].endswith("at budgets from 2 to 16/255")


def test_set_up_installs_nothing_that_is_not_pinned_and_hashed():
    """What installs and builds is a package like others: uv, and hatchling behind the last step."""
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    steps = [
        line
        for line in lines
        if line.startswith("\t") and ("pip install" in line or "$(INSTALL)" in line)
    ]

    assert len(steps) == 5
    for step in steps:
        assert "--require-hashes" in step or "--no-build-isolation --editable ." in step, step
    assert {"uv", "hatchling", "editables"} <= _locked("3.12").keys()


def test_jobs_in_a_conda_environment_run_this_checkout(tmp_path, monkeypatch):
    """With a pretended conda, since a real one needs its channel."""
    conda = tmp_path / "conda"
    (conda / "bin").mkdir(parents=True)
    (conda / "bin" / "conda").write_text(CONDA.format(prefix=conda, python=sys.executable))
    (conda / "bin" / "conda").chmod(0o755)
    (conda / "bin" / "activate").write_text('export PATH="$1/bin:$PATH"\n')
    monkeypatch.setenv("PATH", f"{conda / 'bin'}:/usr/bin:/bin")
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    changes = {
        "models": {"mini": {"path": str(RESOURCES / "mini"), "resolution": 128}},
        "datasets": {"bundled": {"path": str(RESOURCES / "identities")}},
        "metrics": ["fdfr"],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(changes))
    command = [
        str(Path(sys.executable).with_name("snakemake")),
        "results/mini/bundled/person_000003/data/job.json",
        *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path)),
        *("--configfile", "tiny.yaml", "--software-deployment-method", "conda"),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert (conda / "calls").read_text() == f"{REPOSITORY / 'src'} -P -m cloakbench data\n"
