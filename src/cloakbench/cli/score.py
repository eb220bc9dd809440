"""Commands that score images: references, score, distances."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloakbench.cli.results import ForceOption, JsonOption, check_new_file, photos_in, say
from cloakbench.cli.stages import DeviceOption, ScratchOption, device_for, parse_spec
from cloakbench.errors import CloakBenchError
from cloakbench.files.layout import PHOTO_LABELS, Cell, label

if TYPE_CHECKING:
    import pandas as pd

    from cloakbench.score.base import Metric

Faces = Annotated[
    str, typer.Option(help='Face backend: a name, or JSON like {"method": "insightface", ...}.')
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--references",
        help="The people's faces, by `cloakbench references`; metrics of identity need it.",
    ),
]
Known = Annotated[
    Path | None,
    typer.Option(
        help="A file that this command wrote before: copied, if it is of just these photos, "
        "weights and code."
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="Metric, by name or JSON; repeat. By default those without weights, of which most "
        "need --references."
    ),
]
CleanPhotos = Annotated[
    Path | None, typer.Option(help="The person's clean photos, for metrics that read them.")
]
Label = Annotated[str, typer.Option(help="Label of the rows.")]


def references(
    data: Annotated[list[Path], typer.Argument(help="Data folders, each called IDENTITY/data.")],
    output: Output,
    faces: Faces = "dlib",
    known: Known = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Embed the clean photos of a dataset's identities, for the metrics that know faces.

    Every data folder holds set_A, set_B and set_C, and is called after its identity, or lies as
    `data` in a folder that is. The faces of set_C become the identity's reference; those of set_A
    and set_B show what the face backend scores for the same person and for others, which relative
    ISM is measured against.

    Example: cloakbench references results/mini/bundled/*/data -o references.json
    """
    from cloakbench.faces import backends
    from cloakbench.files.verified import beside, load_manifest
    from cloakbench.running.record import Record
    from cloakbench.running.run import Run, close_job, is_made_file
    from cloakbench.score.references import References, facts, make_references

    check_new_file(output, force, *data)
    backend = backends.build(parse_spec(faces))
    backend.check()
    folders = {identity_of(folder): folder for folder in data}
    if len(folders) < len(data):
        raise CloakBenchError("two data folders belong to one identity. Name each identity once.")
    record = Record.of(facts(backend), {}, folders)
    if known is not None and not known.is_file():
        raise CloakBenchError(f"{known}: no such file. Name what this command wrote before.")
    if known is not None and is_made_file(known, record):
        References.read(known).write(output, load_manifest(beside(known)) or {})
    else:
        job = Run(output, identity="", scratch=scratch).job(record)
        make_references(folders, backend, job).write(output, record.manifest())
        close_job(job)
    following = ["score", "SAMPLES", "--references", output, "--identity", "IDENTITY"]
    say(as_json, output, {"people": len(folders)}, *following, "-o", "scores.csv")


def identity_of(folder: Path) -> str:
    """The identity of a data folder, by its name or, in a run's results, that of its parent."""
    place = folder.absolute()
    return place.parent.name if place.name == "data" else place.name


def score(
    generated: Annotated[Path, typer.Argument(help="A sample, or a folder of some (per prompt).")],
    output: Output,
    identity: Label,
    reference: Reference = None,
    faces: Faces = "dlib",
    metric: Metrics = None,
    photos: CleanPhotos = None,
    model: Label = "",
    dataset: Label = "",
    seed: Label = "",
    protection: Label = "",
    purification: Label = "",
    trainer: Label = "",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score every sample of one personalised model, one row per image.

    An image without a face is a result (FDFR counts it); anything else that goes wrong stops the
    command. The face backend must be the one that made the references.

    Example: cloakbench score generated/ --references references.json --identity n01 -o scores.csv
    """
    from cloakbench.faces import backends
    from cloakbench.files.text import write_scores
    from cloakbench.running.record import Record
    from cloakbench.score.base import build_metrics
    from cloakbench.score.references import NO_REFERENCES, References
    from cloakbench.score.samples import facts, sample_files, score_samples

    check_new_file(output, force, generated, reference, photos)
    cell = Cell(model, dataset, identity, seed, protection, purification, trainer)
    backend = backends.build(parse_spec(faces))
    metrics = build_metrics([parse_spec(text) for text in metric or []])
    given = {"samples": generated, "references": reference, "photos": photos}
    record = Record.of(facts(backend, metrics), {"labels": label(cell)}, given)
    read = References.read(reference) if reference else NO_REFERENCES
    sample_files(generated)
    where = _device(device, metrics)
    table = score_samples(generated, read, backend, metrics, cell, photos, where)
    write_scores(table, output, record.manifest(where))
    _say(as_json, table, [metric.name for metric in metrics], output)


def distances(
    photos: Annotated[Path, typer.Argument(help="A protected or purified photo, or a folder.")],
    originals: Annotated[Path, typer.Argument(help="The same, untouched.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: say it only.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Another metric of photos, such as brisque or lpips; repeat."),
    ] = None,
    model: Label = "",
    dataset: Label = "",
    identity: Label = "",
    seed: Label = "",
    protection: Label = "",
    purification: Label = "",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare protected or purified photos with their originals: L-infinity, PSNR, SSIM.

    Photos are matched by name without suffix, and both folders must hold the same ones.

    Example: cloakbench distances protected/aspl data/set_B -o distances.csv
    """
    from cloakbench.files.text import write_scores
    from cloakbench.running.record import Record
    from cloakbench.score.base import build_metrics, photo_metrics
    from cloakbench.score.photos import distances as measure_folder
    from cloakbench.score.photos import facts

    if output is not None:
        check_new_file(output, force, photos, originals)
    for place, argument in ((photos, "PHOTOS"), (originals, "ORIGINALS")):
        photos_in(place, argument)
    cell = Cell(model, dataset, identity, seed, protection, purification, trainer="")
    metrics = build_metrics([parse_spec(text) for text in metric]) if metric else []
    where = _device(device, metrics)
    table = measure_folder(photos, originals, cell, metrics, where)
    if output is not None:
        given = {"photos": photos, "originals": originals}
        record = Record.of(facts(metrics), {"labels": label(cell, PHOTO_LABELS)}, given)
        write_scores(table, output, record.manifest(where))
    _say(as_json, table, [each.name for each in photo_metrics(metrics)], output)


def _device(chosen: str, metrics: Sequence[Metric]) -> str:
    """Where metrics run: a GPU is claimed, and torch loaded, only if one of them needs it."""
    device = device_for(chosen, frozenset[str]().union(*(metric.uses for metric in metrics)))
    if device == "cpu":
        return device
    from cloakbench.models.device import choose_device, set_up_torch

    set_up_torch(None)
    return choose_device(device)


def _say(as_json: bool, table: pd.DataFrame, names: list[str], output: Path | None) -> None:
    """Say what was measured: all of it for machines, else what a table makes of it."""
    shown = ["photo", *names] if "photo" in table else ["prompt", "image", *names]
    from cloakbench.tables import records

    if as_json:
        typer.echo(json.dumps(records(table[shown]), ensure_ascii=False))
        return
    typer.echo(f"{_summary(table, names, output)}{_next(output)}")


def _next(output: Path | None) -> str:
    return f"; next: {shlex.join(['cloakbench', 'manifest', str(output)])}" if output else ""


def _summary(table: pd.DataFrame, names: list[str], output: Path | None) -> str:
    """What was measured in a line: of how many images, and means, or what tables have instead."""
    from cloakbench.score.base import metrics

    finite = table[names].replace([math.inf, -math.inf], math.nan)
    values = []
    for name in names:
        value = finite[name].max() if metrics[name].aggregate == "max" else finite[name].mean()
        shown_value = "–" if math.isnan(value) else format(value, metrics[name].display)
        values.append(f"{metrics[name].title} {shown_value}{_at_limit(table, name)}")
    place = f" → {output}" if output is not None else ""
    what = ("photo" if "photo" in table else "sample") + ("s" if len(table) > 1 else "")
    return f"{len(table)} {what}{place}: {', '.join(values)}"


def _at_limit(table: pd.DataFrame, name: str) -> str:
    """How many values say nothing: those that all images far from natural ones get."""
    from cloakbench.score.base import metrics

    limit = metrics[name].saturates
    count = 0 if limit is None else int(((table[name] - limit).abs() < 1e-3).sum())
    return f" ({count} at its limit, whatever they show)" if count else ""
