"""The `cloakbench` command: every stage, the catalogue of methods, and one-line errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cloakbench import __version__
from cloakbench.cli import (
    convert,
    experiment,
    faces,
    manifest,
    methods,
    pretrain,
    score,
    stages,
    synth,
    trial,
)
from cloakbench.errors import CloakBenchError, explain_failure, one_line
from cloakbench.plugins import load_file
from cloakbench.running.benchmark import benchmarked

app = typer.Typer(
    help="Measure whether protective perturbations (cloaks) survive purification and "
    "contrastive fine-tuning of diffusion models.\n\n"
    "Run `snakemake` for a whole experiment; the commands below are its stages, in order, and "
    "work by hand on a photo or a folder of photos. Pixels are [0, 1], budgets are grey levels "
    "(11/255).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_PANELS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Stages": (
        stages.data,
        stages.class_images,
        stages.protect,
        stages.purify,
        stages.personalise,
        stages.sample,
        score.references,
        score.score,
        score.distances,
    ),
    "Experiments": (
        experiment.check,
        experiment.plan,
        experiment.status,
        experiment.tables,
        experiment.claims,
        experiment.adaptive,
        experiment.report,
        experiment.clip,
        experiment.compare,
        experiment.picture,
        manifest.manifest,
    ),
    "Methods": (methods.methods, methods.schema, convert.convert),
}
app.command(rich_help_panel="One's own photos", name="try")(trial.try_photos)
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel, name=_command.__name__.replace("_", "-"))(_command)
app.command(rich_help_panel="Miniature")(synth.synth)
app.command(rich_help_panel="Miniature")(faces.faces)
app.command(rich_help_panel="Miniature")(faces.sheet)
app.add_typer(pretrain.app, name="pretrain", rich_help_panel="Miniature")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cloakbench {__version__}")
        raise typer.Exit


@app.callback()
def _before_commands(
    context: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file that adds methods; repeat. For one that is in no config."),
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(help="Write here what the command took: seconds, and megabytes of memory."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    if benchmark is not None:
        context.with_resource(benchmarked(benchmark))
    for file in plugin or []:
        load_file(file.expanduser())


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except CloakBenchError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if (line := explain_failure(error)) is None:
            raise
        sys.exit(f"error: {one_line(line)}")
