"""What the Snakemake workflow catalog, snakedeploy and `snakemake --report` expect."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, Workflow

MODULE = """
configfile: "config/config.yaml"


module cloakbench:
    snakefile:
        "{snakefile}"
    config:
        config


use rule * from cloakbench
"""


def test_the_catalog_finds_what_it_looks_for():
    usage = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]

    assert usage["software-stack-deployment"]["conda"] is True
    assert usage["report"] is True
    assert (REPOSITORY / "workflow" / "Snakefile").is_file()
    assert "snakedeploy" in (REPOSITORY / "config" / "README.md").read_text()
    assert "snakemake workflow" in (REPOSITORY / "README.md").read_text().lower()
    named = REPOSITORY / "config" / "config.yaml"
    assert named.read_text() == (REPOSITORY / "config.yaml").read_text()


def test_workflow_snakefile_plans_what_snakefile_plans(workflow: Workflow):
    run = workflow.snakemake("--dry-run", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile"))

    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_it_can_be_deployed_as_a_module(workflow: Workflow, tmp_path: Path):
    """As snakedeploy writes it, with paths to a model and to photos."""
    (tmp_path / "config").mkdir()
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | workflow.config
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "Snakefile").write_text(
        MODULE.format(snakefile=REPOSITORY / "workflow" / "Snakefile")
    )

    command = [Path(sys.executable).with_name("snakemake"), "--dry-run", "--quiet", "rules"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert re.search(r"personalise +4\b", run.stdout + run.stderr)


@pytest.mark.parametrize("name", ["report.html", "report.zip"])
def test_the_report_of_snakemake_shows_page_figure_tables_and_provenance(
    name: str, workflow: Workflow
):
    run = workflow.snakemake("--report", name)

    assert run.returncode == 0, run.stderr
    assert (workflow.folder / name).stat().st_size > 1e5
    for shown in ("index.html", "scores.svg", "summary.csv", "contrasts.csv", "provenance.md"):
        assert f"{shown} (" in run.stdout + run.stderr
