"""The command for one's own photos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloakbench.cli.results import ForceOption, JsonOption, is_miniature
from cloakbench.cli.stages import DeviceOption, ModelOption, SeedOption, ThreadsOption, parse_model
from cloakbench.errors import CloakBenchError

if TYPE_CHECKING:
    from cloakbench.trial.steps import Trial


def try_photos(
    photos: Annotated[
        list[Path],
        typer.Argument(help="2 to 50 photos of one person, or folders of them, as they come."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("trial"),
    budget: Annotated[
        str, typer.Option(help="Largest change of a channel value, in grey levels.")
    ] = "11/255",
    model: ModelOption = "resources/mini",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Protect one's own photos, and see what a personalised model learns of them before and after.

    All photos are protected by a quick method and by a strong one, and come back at their own size
    and under their own names. A model learns them as they are and as they were protected; a page
    shows what it draws then. Run the same command again to go on where it was stopped.

    Example: cloakbench try photos
    """
    from cloakbench.trial.photos import gather
    from cloakbench.trial.steps import Recipe, Trial

    chosen = parse_model(model)
    recipe = Recipe.of(is_miniature(chosen), _levels(budget))
    trial = Trial(gather(photos), out, chosen, recipe, seed)
    begun = trial.check(force)
    from cloakbench.models.device import choose_device, set_up_torch

    set_up_torch(threads)
    _run(replace(trial, device=choose_device(device)), begun, as_json)


def _run(trial: Trial, begun: bool, as_json: bool) -> None:
    """Run a trial that was checked, write its page and say what came of it."""
    from cloakbench.experiment.status import duration
    from cloakbench.trial.page import sentences, write_page
    from cloakbench.trial.steps import expected_seconds

    if not begun:
        seconds = expected_seconds(trial)
        typer.echo(f"{len(trial.named)} photos: about {duration(seconds)} here.", err=True)
    trial.begin()
    found, miniature = trial.run(), is_miniature(trial.model)
    page = write_page(trial, miniature, found)
    if as_json:
        typer.echo(json.dumps({"page": str(page), "tried": [each.as_data() for each in found]}))
        return
    for sentence in sentences(found, miniature):
        typer.echo(sentence)
    places = " and ".join(f"{trial.out / each.name}/" for each in trial.recipe.protections)
    typer.echo(f"{len(trial.named)} photos → {places}; open {page}")


def _levels(budget: str) -> int:
    from cloakbench.settings import parse_levels

    try:
        levels = parse_levels(int(budget) if budget.isdigit() else budget)
    except ValueError as error:
        raise CloakBenchError(f"--budget {budget}: {error}.") from None
    if levels < 1:
        raise CloakBenchError(f"--budget {budget}: protects nothing. Give 1/255 or more.")
    return levels
