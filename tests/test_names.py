"""Names that reach paths and commands: what is refused, and that nothing runs what they say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePath

import pytest
import yaml
from conftest import REPOSITORY, Workflow
from hypothesis import given
from hypothesis import strategies as st

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import load
from cloakbench.names import check_name, check_path

HOSTILE = "anna$(touch x)"


@pytest.mark.parametrize(
    "name", ["anna", "Ana María", "安娜", "अन्ना", "n000050", "Anna (2)", "a.b_c+d-e@f", "_", "٣"]
)
def test_letters_of_any_script_digits_and_a_few_marks_are_fine(name):
    assert check_name(name) == name
    check_path(PurePath("/data") / name / "results")


@given(st.text(min_size=1).filter(str.strip))
def test_what_is_accepted_means_itself_to_a_shell_and_what_is_not_gets_a_name_that_is(name):
    try:
        check_name(name)
    except ValueError as error:
        better = str(error).split("Call it ")[1]
        assert check_name(better) == better
    else:
        assert not set(name) & set("$`\"'\\<>{}|;&*?\0\n\r\t/")
        assert not name.startswith("-")


@pytest.mark.parametrize(
    "path", ["results", ".", "..", "../results", "/a/b.c", "~", ".cache/x", ""]
)
def test_usual_paths_are_fine(path):
    check_path(PurePath(path))


@pytest.fixture
def hostile(dataset: Path, tiny_model, tmp_path: Path) -> Workflow:
    """A workflow whose dataset has somebody with a command for a name."""
    shutil.copytree(dataset / "bert", tmp_path / "identities" / "bert")
    shutil.copytree(dataset / "anna", tmp_path / "identities" / HOSTILE)
    config = {
        "models": {"mini": {"path": tiny_model.path, "resolution": 64}},
        "datasets": {"bundled": {"path": str(tmp_path / "identities")}},
        "identities": ["bert"],
        "metrics": ["fdfr"],
    }
    default = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(default | config))
    return Workflow(tmp_path, {})


def test_the_plan_refuses_a_folder_whose_name_is_a_command_and_runs_nothing(hostile):
    run = hostile.snakemake("--until", "data")

    assert run.returncode == 1
    assert f"{HOSTILE}: this name holds $ , which a shell or a workflow may act on." in run.stderr
    assert "Call it anna_(touch x)." in run.stderr
    assert not list(hostile.folder.rglob("x"))
    assert not (hostile.folder / "results" / "mini" / "bundled").exists()


SBATCH = r"""#!/bin/sh
# Notes what it is told to run, and lets a shell read it as on a node, where it counts its words.
for argument; do case $argument in --wrap=*) script=${argument#--wrap=}; esac; done
echo "$script" >> scripts
echo "printf '%s\n' $script" | sh >> words
exit 1
"""


@pytest.mark.parametrize("name", [HOSTILE, "anna (2)"])
def test_a_cluster_is_given_no_command_that_is_in_a_name(name, hostile, monkeypatch):
    """With a pretended sbatch. The plug-in passes names on through two shells."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="make slurm")
    (hostile.folder / "identities" / HOSTILE).rename(hostile.folder / "identities" / name)
    commands = hostile.folder / "bin"
    commands.mkdir()
    for command in ("sbatch", "sacct", "sacctmgr", "sinfo"):
        (commands / command).write_text(SBATCH if command == "sbatch" else "#!/bin/sh\necho a\n")
        (commands / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    options = ["--workflow-profile", str(REPOSITORY / "profiles" / "slurm"), "--retries", "0"]
    options += ["--default-resources", "slurm_account=a", "slurm_partition=p", "--until", "protect"]

    run = hostile.snakemake(*options, identities=[name], protections=["advdm"])

    words = hostile.folder / "words"
    assert run.returncode == 1, run.stdout + run.stderr
    assert not list(hostile.folder.rglob("x"))
    if name == HOSTILE:
        assert not words.exists()
    else:
        job = f"protect:model=mini,dataset=bundled,identity={name},seed=0,protection=advdm"
        assert job in words.read_text().splitlines(), run.stdout + run.stderr


def test_a_key_that_is_there_twice_is_refused_by_the_plan_too(hostile):
    shutil.rmtree(hostile.folder / "identities" / HOSTILE)
    with (hostile.folder / "config.yaml").open("a") as file:
        file.write("seeds: [1]\nseeds: [2]\n")

    run = hostile.snakemake("--dry-run")

    assert run.returncode == 1
    assert "config.yaml: the key 'seeds' is there twice. Keep one of them." in run.stderr
    with pytest.raises(CloakBenchError, match="the key 'seeds' is there twice"):
        load([hostile.folder / "config.yaml"])


def test_a_module_in_the_working_folder_breaks_no_job(hostile):
    shutil.rmtree(hostile.folder / "identities" / HOSTILE)
    for module in ("typer", "json", "numpy"):
        (hostile.folder / f"{module}.py").write_text("raise SystemExit('imported from here')")

    run = hostile.snakemake("--until", "data")

    assert run.returncode == 0, run.stdout + run.stderr
    assert list(hostile.folder.rglob("data/set_B/*.png"))
