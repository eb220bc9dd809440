"""Commands about a whole experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[
    list[str],
    typer.Argument(
        help="YAML files, later ones laid over earlier ones as Snakemake does, or the whole "
        "config as JSON."
    ),
]


def check(config: ConfigArgument) -> None:
    """Check a config and everything that it reads, and say what an experiment will run.

    Example: cloakbench check config.yaml config/behaviour.yaml
    """
    from cloakbench.config import Experiment

    experiment = Experiment.read(config)
    experiment.check()
    axes = {
        "identities": experiment.chosen_identities,
        "protections": experiment.all_protections,
        "purifications": experiment.all_purifiers,
        "trainers": experiment.all_trainers,
    }
    for name, labels in axes.items():
        typer.echo(f"{name:>14}: {', '.join(labels)}")
    cells = len(experiment.cells())
    per_cell = experiment.sampling.images * len(experiment.prompts.sample)
    typer.echo(f"{'cells':>14}: {cells}, {per_cell} samples each")


def tables(config: ConfigArgument) -> None:
    """Gather the scores of an experiment's cells into tables, and print the summary.

    Writes CSV and Markdown to results/tables/<experiment>: images, identities, summary (with
    95 % bootstrap intervals over identities), contrasts (differences to clean and noise) and
    distances.
    """
    from cloakbench.config import Experiment
    from cloakbench.tables import make_tables, print_summary, write_tables

    experiment = Experiment.read(config)
    made = make_tables(experiment.cells(), experiment.layout)
    write_tables(experiment.experiment, made, experiment.layout.tables(experiment.experiment))
    print_summary(experiment.experiment, made.summary)


def report(config: ConfigArgument) -> None:
    """Write an experiment's report: one HTML file with its scores and pictures, for any browser.

    The pictures are inside the file, so it can be moved; share it only as you would the photos.
    """
    from cloakbench.config import Experiment
    from cloakbench.report import make_report

    experiment = Experiment.read(config)
    out = make_report(
        experiment.experiment,
        experiment.cells(),
        experiment.layout,
        experiment.prompts.sample_prompts,
    )
    typer.echo(f"report: {Path(out)}")
