"""What is built and published elsewhere: packages, the container, and the workflows for GitHub."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from cloakbench import __version__

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with what they are given."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The source distribution and the wheel that is made of it, in no clone."""
    pytest.importorskip("uv")
    folder = tmp_path_factory.mktemp("dist")
    command = ["-m", "uv", "build", "--quiet", "--no-build-isolation", "--out-dir", str(folder)]
    subprocess.run([sys.executable, *command, REPOSITORY], check=True, cwd=folder)
    return sorted(folder.glob("cloakbench-*"))


def test_the_version_stands_in_one_place_and_in_what_is_built(built: list[Path]):
    wheel, source = built

    assert source.name == f"cloakbench-{__version__}.tar.gz"
    assert wheel.name == f"cloakbench-{__version__}-py3-none-any.whl"
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__


def test_an_index_would_take_what_is_built(built: list[Path]):
    pytest.importorskip("twine")
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_source_distribution_has_what_a_clone_has_and_no_results(built: list[Path]):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    for needed in ("Snakefile", "config.yaml", "Makefile", "requirements.lock", "LICENSE"):
        assert needed in names
    for folder in (".venv", "site", "dist", ".git"):
        assert not any(name.startswith(f"{folder}/") for name in names)
    assert {name for name in names if name.startswith("results/")} == {"results/README.md"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_that_there_are_and_pinned_actions(path: Path):
    targets = set(re.findall(r"^([a-z -]+):.*##", MAKEFILE, re.MULTILINE))
    known = {name for line in targets for name in line.split()}

    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert target in known
    assert yaml.safe_load(path.read_text("utf-8"))["permissions"] == {"contents": "read"}


def test_continuous_integration_lints_tests_builds_and_makes_the_site():
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]
    made = {
        target
        for path in WORKFLOWS
        for step in steps(path)
        for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""))
    }
    assert made == {"lint", "browser", "test", "build", "docs"}


def test_pages_are_tested_in_a_browser_and_the_wheel_with_the_packages_that_it_names_alone():
    for path in WORKFLOWS:
        runs = [step.get("run", "") for step in steps(path)]
        made = [target for run in runs for target in re.findall(r"^make ([a-z-]+)", run)]
        assert "test" not in made or made.index("browser") < made.index("test")
        assert "build" not in made or any("install --quiet dist/*.whl" in run for run in runs)


def test_the_container_pins_its_base_runs_as_nobody_in_particular_and_keeps_no_lists():
    found = instructions()
    bases = [rest for word, rest in found if word == "FROM"]
    runs = [rest for word, rest in found if word == "RUN"]

    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", base) for base in bases)
    assert not any(":latest" in base for base in bases)
    assert [rest for word, rest in found if word == "USER"][-1:] not in ([], ["root"], ["0"])
    for run in runs:
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert run.endswith("rm -rf /var/lib/apt/lists/*")
        if "pip install" in run:
            assert "--no-cache-dir" in run
            assert "--require-hashes" in run or "--no-build-isolation --editable ." in run
    assert found[-1] == ("ENTRYPOINT", '["snakemake"]')


def test_the_container_copies_files_that_are_there_and_no_environment():
    for word, rest in instructions():
        if word == "COPY":
            assert all((REPOSITORY / name).exists() for name in rest.split()[:-1])
    ignored = (REPOSITORY / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv", "results/*", "!results/README.md"} <= set(ignored)
