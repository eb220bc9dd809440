"""What commands need before they begin, and what they say of what they wrote."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloakbench.errors import CloakBenchError
from cloakbench.files.bundle import bundled
from cloakbench.files.images import (
    changes,
    photo_files,
    photo_size,
    read_photo,
)
from cloakbench.files.outputs import MANIFEST, check_file, check_output

if TYPE_CHECKING:
    from cloakbench.models.spec import ModelSpec

MINIATURE = Path("resources/mini")

ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")]


def check_new(out: Path, force: bool, *inputs: Path | None) -> None:
    """See that an output folder can be written, and replaces nothing that is not to be replaced.

    Raises:
        CloakBenchError: see `check_output`; or it is there, and force is not used.
    """
    check_output(out, *inputs)
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise _there(out, "--out")


def check_new_file(out: Path, force: bool, *inputs: Path | None, option: str = "--output") -> None:
    """The same of a file."""
    check_file(out, *inputs, option=option)
    if out.exists() and not force:
        raise _there(out, option)


def _there(out: Path, option: str) -> CloakBenchError:
    return CloakBenchError(
        f"{out}: is there already. Add --force to replace it, or choose another {option}."
    )


def photos_in(place: Path | None, option: str) -> tuple[Path, list[Path]]:
    """What an option names, and the photos there, of which there must be some.

    Raises:
        CloakBenchError: it is not given, or there are none; see `photo_files`.
    """
    if place is None:
        raise CloakBenchError(f"no photos: name a photo, or a folder of photos, with {option}.")
    if not (files := photo_files(place)):
        raise CloakBenchError(f"{place}: no photos in this folder. Check the path.")
    return place, files


def is_miniature(model: ModelSpec) -> bool:
    """Whether a model is the bundled one."""
    return bundled(Path(model.path)).resolve() == bundled(MINIATURE).resolve()


def warn_of_miniature(model: ModelSpec, photo: Path) -> None:
    """Say what the miniature is worth on photos that are larger than it."""
    width, height = photo_size(photo)
    if is_miniature(model) and min(width, height) > model.resolution:
        typer.echo(
            f"warning: {photo.name} is {width}x{height} px and the model is the bundled miniature, "
            f"of {model.resolution} px: this shows what a method does, and protects nothing from "
            "Stable Diffusion. Name a model with --model.",
            err=True,
        )


def compared(made: Path, originals: Path) -> dict[str, Any]:
    """How many photos were made of originals of the same names, and how far they are from them.

    `linf` is in grey levels; `psnr` [dB] the mean over photos that changed, None if none did.
    """
    by_name = {path.stem: path for path in photo_files(originals)}
    files = photo_files(made)
    largest, mean = changes((read_photo(path), read_photo(by_name[path.stem])) for path in files)
    psnr = None if math.isnan(mean) else round(mean, 2)
    return {"photos": len(files), "linf": largest, "psnr": psnr}


def counted(out: Path, what: str) -> dict[str, Any]:
    """How many files of a kind are in a folder, by what they are."""
    return {what: sum(1 for path in out.rglob("*") if path.is_file() and _is_result(path))}


def say(as_json: bool, out: Path, found: dict[str, Any], *following: object) -> None:
    """Say what was written, and the command that may follow.

    found: the number of what was written, by what it is, then `linf` and `psnr` where known.
    """
    command = shlex.join(map(str, ("cloakbench", *following))) if following else ""
    if as_json:
        typer.echo(json.dumps({"out": str(out), **found, "next": command}))
        return
    (what, number), *_ = found.items()
    place = f"{out}/" if out.is_dir() else str(out)
    parts = [f"{number} {what if number != 1 else what.removesuffix('s')} → {place}"]
    if "linf" in found:
        parts.append(f"L∞ {found['linf']:.0f}/255")
        parts.append(f"PSNR {found['psnr']:.1f} dB" if found["psnr"] else "nothing changed")
    typer.echo(", ".join(parts) + (f"; next: {command}" if command else ""))


def _is_result(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != MANIFEST
