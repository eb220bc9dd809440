"""Commands about a whole experiment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloakbench.cli.results import ForceOption, check_new_file

if TYPE_CHECKING:
    import pandas as pd

    from cloakbench.experiment.experiment import Experiment
    from cloakbench.files.layout import Cell
    from cloakbench.tables import Elsewhere, Tables

ADAPTS = 0.5  # the probability, of a protection that may
ConfigArgument = Annotated[
    list[str],
    typer.Argument(
        help="YAML files, later ones laid over earlier ones as Snakemake does, or the whole "
        "config as JSON."
    ),
]
SoFarOption = Annotated[
    bool,
    typer.Option(
        "--so-far", help="Of the cells that have been scored, into a folder EXPERIMENT-so-far."
    ),
]
ScoredOption = Annotated[bool, typer.Option("--so-far", help="Of the cells that have been scored.")]
PoolOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="A folder of tables, of this experiment from another machine or of another one, whose "
        "cells of this one join those that are scored here; as --so-far. Repeatable."
    ),
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(help="A metric to print; repeat. By default those that tell most."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines, all that there is.")]


def check(config: ConfigArgument) -> None:
    """Check a config and everything that it reads, and say what an experiment will run.

    Example: cloakbench check config.yaml config/behaviour.yaml
    """
    from cloakbench.experiment.experiment import Experiment

    experiment = Experiment.read(config)
    experiment.check()
    axes = {
        "identities": experiment.config.chosen_identities,
        "protections": experiment.protections,
        "purifications": experiment.purifiers,
        "trainers": experiment.trainers,
    }
    for name, labels in axes.items():
        typer.echo(f"{name:>14}: {', '.join(labels)}")
    cells = len(experiment.cells())
    per_cell = experiment.config.sampling.images * len(experiment.config.prompts.sample)
    typer.echo(f"{'cells':>14}: {cells}, {per_cell} samples each")
    _say_people(experiment, 14)


def _say_people(experiment: Experiment, width: int = 0) -> None:
    """Say what becomes of photos that come without sets, and what one person is too few for."""
    config = experiment.config
    if experiment.uses_references and len(config.dataset_spec.identities()) < 2:
        said = "relative scores and identification compare people, and will stay empty"
        typer.echo(f"{'1 person':>{width}}: {said}")
    if said := config.dataset_spec.split_aloud(config.chosen_identities):
        typer.echo(f"{'split':>{width}}: {said}")


def plan(
    config: ConfigArgument,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Jobs that run at the same time.")
    ] = 1,
    card: Annotated[
        str, typer.Option(help="What runs them: cpu (one core), h100, a100, rtx4090, ...")
    ] = "cpu",
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of its peak that a job gets.",
            min=0.001,
            max=1,
            show_default="0.5 of a core, 0.2 of a GPU",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an experiment will take: jobs, time, memory and disk, and what is missing for it.

    Times are those of finished jobs of the same method, of any experiment with the same results
    folder, model and settings, or else FLOPs, counted on tensors without data, over what the card
    does of its peak. Nothing is run, and no GPU is needed.

    Example: cloakbench plan config.yaml config/stable-diffusion.yaml --card rtx4090
    """
    from cloakbench.errors import CloakBenchError
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.experiment.plan import make_plan, print_plan

    experiment = Experiment.read(config)
    made = make_plan(experiment, card, share)
    if as_json:
        typer.echo(json.dumps(made.as_data(), indent=2))
        return
    print_plan(made, jobs)
    with suppress(CloakBenchError):  # which is among what is missing
        _say_people(experiment)


def status(
    config: ConfigArgument,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Jobs that run at the same time.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Say how far an experiment is: jobs done, missing and failed, and the time left.

    It looks for results and reads the logs and benchmarks of jobs, so it is quick and disturbs no
    run. A job has failed if it has no result and its log ends in an error; missing ones wait, run
    or were cut off. The time left is that of finished jobs of the same method.

    Example: cloakbench status config.yaml config/behaviour.yaml
    """
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.experiment.status import print_status, read_status

    found = read_status(Experiment.read(config))
    if as_json:
        typer.echo(json.dumps(found.as_data(), indent=2))
    else:
        print_status(found, jobs)


def tables(
    config: ConfigArgument,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--latex", help="A metric of the LaTeX tables; repeat. By default those that tell most."
        ),
    ] = None,
    so_far: SoFarOption = False,
    pool: PoolOption = None,
) -> None:
    """Gather the scores of an experiment's cells into tables, and print what tells most.

    Writes CSV, Markdown and LaTeX to results/tables/EXPERIMENT: images, identities, summary (with
    95 % intervals over identities), contrasts (differences to the controls: clean, noise, none,
    DreamBooth, with p), prompts (the summary of each, if several), distances and photos (what
    methods do to the photos), seeds (what is due to them, if several), verdicts where the config
    names claims, reported where it names values that others report, expected (as `adaptive`) where
    protections look through something; and purifiers (seconds per photo) and provenance:
    versions, settings, weights, machines, time and memory.

    Example: cloakbench tables config.yaml config/claims.yaml --so-far
    """
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.experiment.provenance import write_provenance
    from cloakbench.files.layout import STAGES
    from cloakbench.files.outputs import check_output, new_folder
    from cloakbench.tables import print_summary, write_tables

    experiment = Experiment.read(config)
    expected = Expected(experiment)
    expected.check(*STAGES)
    elsewhere = _elsewhere(experiment, pool or ())
    name, cells = _finished(experiment, so_far or bool(pool), elsewhere)
    made, folder = _tables(experiment, cells, elsewhere), experiment.layout.tables(name)
    check_output(folder)
    whole = {} if so_far or pool else expected.tables().manifest()
    with new_folder(folder, whole) as part:
        write_tables(experiment.name, made, part, columns or ())
        _write_further(experiment, cells, made, part)
        write_provenance(experiment, part, [each.provenance for each in elsewhere])
    print_summary(name, made)


def _elsewhere(experiment: Experiment, folders: Sequence[Path]) -> list[Elsewhere]:
    """What other machines have scored of an experiment."""
    from cloakbench.experiment.provenance import make_provenance
    from cloakbench.tables import read_elsewhere

    here = make_provenance(experiment) if folders else {}
    return [read_elsewhere(each, experiment.cells(), here) for each in folders]


def _write_further(
    experiment: Experiment, cells: Sequence[Cell], made: Tables, folder: Path
) -> None:
    """Write tables that say more than scores of cells."""
    from cloakbench.tables import (
        expected_means,
        purifier_costs,
        write_expected,
        write_purifiers,
        write_reported,
    )

    if experiment.reported is not None:
        write_reported(experiment.name, experiment.reported, made, folder)
    if experiment.adapted:
        means = expected_means(made.images, experiment.adapted, [ADAPTS])
        write_expected(experiment.name, means, folder)
    costs = purifier_costs(cells, experiment.layout, made.photos)
    write_purifiers(experiment.name, costs, folder)


def claims(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            help="YAML files, later ones over earlier ones; by default config.yaml with every "
            "config/claims*.yaml."
        ),
    ] = None,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="By the scores that there are; nothing is run.")
    ] = False,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing, and say which claims hold, are contradicted or are undecided.

    Claims are in the file that a config's key `claims` names, written before the run. Each
    experiment is run as `snakemake --configfile FILES` would, and only where results are missing
    or out of date; with --so-far, --pool or --json nothing is run. `--pool docs/claims` decides by
    published scores.

    Example: cloakbench claims config.yaml config/claims.yaml --pool docs/claims
    """
    from cloakbench.errors import CloakBenchError
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.tables import print_verdicts, records, verdicts_so_far

    asked = [(each, Experiment.read(each)) for each in ([config] if config else _ledgers())]
    found = []
    for sources, experiment in asked:
        if experiment.claims is None:
            raise CloakBenchError(
                f"{sources[-1]}: names no file of `claims`. See config/README.md."
            )
        if not (so_far or pool or as_json):
            _run(sources, experiment)
        Expected(experiment).check("score", "distances")
        elsewhere = _elsewhere(experiment, pool or ())
        made = verdicts_so_far(experiment.claims, experiment.cells(), experiment.layout, elsewhere)
        found += records(made)
        if not as_json:
            print_verdicts(experiment.name, made)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def _say_waiting(experiment: Experiment) -> None:
    """Say how much of a ledger's experiment is left to run, and how to do without it."""
    from cloakbench.tables import scored

    cells = experiment.cells()
    if waiting := len(cells) - len(scored(cells, experiment.layout)):
        typer.echo(
            f"{experiment.name}: {waiting:,} of {len(cells):,} cells are to be trained and scored; "
            "`cloakbench plan` says how long that takes. Without a run, --so-far decides by the "
            "scores that are here, and --pool by published ones.",
            err=True,
        )


def _ledgers() -> list[list[str]]:
    """The configs with claims in this folder, each on config.yaml.

    Raises:
        CloakBenchError: there is none.
    """
    from cloakbench.errors import CloakBenchError

    ours = [["config.yaml", str(each)] for each in sorted(Path("config").glob("claims*.yaml"))]
    if not ours:
        raise CloakBenchError("there is no config/claims*.yaml here. Name the YAML files to read.")
    return ours


def _run(sources: Sequence[str], experiment: Experiment) -> None:
    """Have Snakemake make what an experiment lacks, and say before how much that is.

    Raises:
        CloakBenchError: it cannot, or the config is no file.
    """
    from cloakbench.errors import CloakBenchError

    if sources[0].startswith("{"):
        raise CloakBenchError("the config: Snakemake reads files. Name them, or add --so-far.")
    _say_waiting(experiment)
    command = [sys.executable, "-m", "snakemake", "--configfile", *sources]
    if subprocess.run(command, check=False).returncode:
        raise CloakBenchError(
            f"{sources[-1]}: not all of it could be run; the lines above say why. Mend that and "
            "run this again, or add --so-far."
        )


def adaptive(
    config: ConfigArgument,
    probability: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Probability that a protection adapts; repeat.",
            show_default=str(ADAPTS),
        ),
    ] = None,
    metric: MetricOption = None,
    so_far: ScoredOption = False,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what to expect where protections may have adapted to what they face, or may not.

    A protection that looks `through` purifications, or through CDL, is set beside the entry of the
    config that is the same but for that. Nothing is run.

    Example: cloakbench adaptive config.yaml config/claims-adaptive.yaml --pool docs/claims-adaptive
    """
    from cloakbench.errors import CloakBenchError
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.tables import expected_means, print_expected, records, rows_so_far
    from cloakbench.tables.collect import read_scores

    experiment = Experiment.read(config)
    if not experiment.adapted:
        raise CloakBenchError(
            "config: no protection looks through anything that another of its entries does not. "
            "See `through` in config/README.md."
        )
    Expected(experiment).check("score")
    elsewhere, layout = _elsewhere(experiment, pool or ()), experiment.layout
    name, cells = _finished(experiment, so_far or bool(pool), elsewhere)
    images = rows_so_far(cells, layout, elsewhere)[0] if pool else read_scores(cells, layout)
    _check_metrics(metric, images)
    found = expected_means(images, experiment.adapted, probability or [ADAPTS])
    if as_json:
        typer.echo(json.dumps(records(found), indent=2, ensure_ascii=False))
    else:
        print_expected(name, found, metric or ())


def compare(
    first: Annotated[Path, typer.Argument(help="A folder of tables, or a config.")],
    second: Annotated[Path, typer.Argument(help="A second folder or config.")],
    metric: MetricOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs cell by cell: the second less the first, paired by person.

    Cells are compared if both runs have them, and metrics if they were measured alike. A config
    without a model is laid over config.yaml.

    Example: cloakbench compare results/tables/before results/tables/after
    """
    from cloakbench.tables import compare as compared
    from cloakbench.tables import print_comparison, read_run, records

    found = compared(read_run(_tables_folder(first)), read_run(_tables_folder(second)))
    _check_metrics(metric, found.differences)
    if as_json:
        told = {"cells": records(found.differences), "left_out": found.left_out}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print_comparison(f"{second} less {first}", found, metric or ())


def _check_metrics(chosen: Sequence[str] | None, frame: pd.DataFrame) -> None:
    """Find out whether a table has the metrics that are to be printed.

    Raises:
        CloakBenchError: it has not.
    """
    from cloakbench.errors import CloakBenchError, nearest
    from cloakbench.tables.summary import metric_columns

    known = metric_columns(frame)
    for name in chosen or ():
        if name not in known:
            raise CloakBenchError(f"--metric: unknown '{name}': {nearest(name, known)}")


def _tables_folder(path: Path) -> Path:
    """Where a run's tables are, by itself or by the run's config."""
    from cloakbench.errors import CloakBenchError
    from cloakbench.experiment.config import load
    from cloakbench.experiment.experiment import Experiment

    if path.is_dir() or not path.exists():
        return path
    if path.suffix == ".csv":
        raise CloakBenchError(f"{path}: is a file of a run. Name its folder of tables.")
    whole = "model" in load([path])
    experiment = Experiment.read([str(path)] if whole else ["config.yaml", str(path)])
    return experiment.layout.tables(experiment.name)


def picture(
    config: ConfigArgument,
    identity: Annotated[str, typer.Option(help="Whose samples.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")],
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 8,
    learnt: Annotated[
        bool, typer.Option("--learnt", help="Show the photos that models learnt, too.")
    ] = False,
    so_far: ScoredOption = False,
    force: ForceOption = False,
) -> None:
    """Draw one picture of an experiment's samples of an identity: its photos, then a row per cell.

    Of an experiment with several seeds, the first one's.

    Example: cloakbench picture config.yaml --identity person_000003 -o samples.png
    """
    from cloakbench.errors import CloakBenchError, nearest
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.report.sheet import cell_rows, contact_sheet

    experiment = Experiment.read(config)
    read = [*experiment.originals(), experiment.layout.root / experiment.config.model]
    check_new_file(out, force, *read, *map(Path, config), option="--out")
    first = str(experiment.config.seeds[0])
    if identity not in (known := experiment.config.chosen_identities):
        raise CloakBenchError(f"--identity: unknown '{identity}': {nearest(identity, known)}")
    _, there = _finished(experiment, so_far)
    if not (cells := [c for c in there if c.identity == identity and c.seed == first]):
        raise CloakBenchError(f"--identity: no cell of '{identity}' has been scored yet.")
    contact_sheet(cell_rows(cells, experiment.layout, columns, learnt), out, columns)
    typer.echo(f"→ {out}")


def clip(
    config: ConfigArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write; default: RESULTS/clip/EXPERIMENT."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Show what CLIP sees in an experiment's photos and samples that are there.

    Writes space.svg (photos and the concepts' prompts on the photos' first two principal
    components, and cosines to the prompt), concepts.svg (what photos and samples are taken for),
    images.csv and groups.csv. CLIP, prompt and concepts are those of the metrics `clip_prompt` and
    `concept`.

    Example: cloakbench clip config.yaml config/claims.yaml
    """
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.report.clip_space import FILES, clip_space, write_clip_space

    experiment = Experiment.read(config)
    folder = out or experiment.layout.clip(experiment.name)
    for name in FILES:
        check_new_file(folder / name, force or out is None, option="--out")
    Expected(experiment).check("purify", "personalise", "sample")
    space = clip_space(experiment)
    write_clip_space(space, folder)
    typer.echo(f"{len(space.images)} images → {folder}/space.svg, {folder}/concepts.svg")


def report(config: ConfigArgument, so_far: SoFarOption = False, pool: PoolOption = None) -> None:
    """Write an experiment's report: one HTML file with its scores and pictures, for any browser,
    and its figures as files: scores.svg, and where they fit curves.svg and interactions.svg.

    The pictures are inside the file, so it can be moved; share it only as you would the photos.
    With --pool they are of the cells that were scored here.

    Example: cloakbench report config.yaml config/claims.yaml --so-far
    """
    from cloakbench.experiment.expected import Expected
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.files.layout import STAGES
    from cloakbench.files.verified import seal
    from cloakbench.report import make_report
    from cloakbench.tables import scored

    experiment = Experiment.read(config)
    expected = Expected(experiment)
    expected.check(*STAGES)
    elsewhere = _elsewhere(experiment, pool or ())
    name, cells = _finished(experiment, so_far or bool(pool), elsewhere)
    made = _tables(experiment, cells, elsewhere)
    here = scored(cells, experiment.layout) if pool else cells
    out = make_report(name, cells, experiment.layout, made, experiment.stages, here)
    if not (so_far or pool):
        seal(out.parent, expected.report().manifest())
    typer.echo(f"report: {out}")


def _finished(
    experiment: Experiment, so_far: bool, elsewhere: Sequence[Elsewhere] = ()
) -> tuple[str, list[Cell]]:
    """What a summary is of, and what it is called: all cells, or those that have been scored, here
    or elsewhere.

    Raises:
        CloakBenchError: not all have been scored, or so far none.
    """
    from cloakbench.errors import CloakBenchError
    from cloakbench.tables import scored

    cells = scored(wanted := experiment.cells(), experiment.layout)
    if not so_far and 0 < len(cells) < len(wanted):
        raise CloakBenchError(
            f"{experiment.layout.root}: {len(cells):,} of {len(wanted):,} cells of "
            f"'{experiment.name}' have been scored. Run snakemake with this config, or add "
            "--so-far."
        )
    if any(len(each.images) for each in elsewhere):
        cells = wanted
    if not cells:
        raise CloakBenchError(
            f"{experiment.layout.root}: no cell of '{experiment.name}' has been scored yet. Run "
            "snakemake with this config."
        )
    return f"{experiment.name}-so-far" if so_far else experiment.name, cells


def _tables(
    experiment: Experiment, cells: Sequence[Cell], elsewhere: Sequence[Elsewhere] = ()
) -> Tables:
    from cloakbench.tables import make_tables

    return make_tables(
        cells,
        experiment.layout,
        experiment.controls,
        experiment.budgets,
        experiment.steps,
        experiment.claims,
        elsewhere,
    )
