"""What stages are given: folders of photos that belong together, and all that a job depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloakbench.errors import CloakBenchError
from cloakbench.files.digest import code_digest
from cloakbench.files.images import Photos, load_photos
from cloakbench.models.spec import ModelSpec
from cloakbench.registry import Method, Part, modules_of, weight_files
from cloakbench.running.run import seen


def dependencies(stage: str, method: Method, model: ModelSpec) -> list[Any]:
    """What a job depends on besides its settings: code and weights, and the model if it is used.

    stage: the module that runs it.
    """
    parts: list[Part] = [method]
    used = [model] if "model" in method.uses else []
    return dependencies_of(stage, *parts, *used) + used


def dependencies_of(stage: str, *parts: Part) -> list[Any]:
    """Code and weights behind a stage and what it runs."""
    files = sorted(each.file for each in weight_files(*parts))
    return [code_digest(stage, *modules_of(*parts)), [seen(path) for path in files]]


def other_photos(folder: Path | None, option: str, method: str, photos: Photos, of: Path) -> Photos:
    """Photos that a method needs beside its instance images: surrogate or class images.

    folder: where they are, as `option` says. photos: the instance images, of the folder `of`.

    Raises:
        CloakBenchError: no folder is given, or its photos are of another size.
    """
    if folder is None:
        raise CloakBenchError(
            f"'{method}' needs {option} FOLDER. Give it, or choose another method."
        )
    others = load_photos(folder)
    if others.pixels.shape[1:] != photos.pixels.shape[1:]:
        (height, width), (h, w) = (each.pixels.shape[-2:] for each in (others, photos))
        raise CloakBenchError(
            f"{folder}: photos of {width}x{height} px, but {of} has {w}x{h} px. Bring them to one "
            "size: `cloakbench data` for photos, --model for class images."
        )
    return others
