"""Outputs are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloakbench.errors import CloakBenchError

MANIFEST = "job.json"
"""What made a folder: stage, settings and seed. Nothing in it differs between equal runs."""


def check_output(path: Path, *inputs: Path | None) -> None:
    """Find out before any work that a folder can be written and replaces nothing that is needed.

    Raises:
        CloakBenchError: it is, or holds, one of the inputs or the current folder.
        OSError: it cannot be written.
    """
    target = path.resolve()
    for needed in (Path.cwd(), *(folder.resolve() for folder in inputs if folder is not None)):
        if target in (needed, *needed.parents):
            raise CloakBenchError(
                f"{path}: writing this folder would replace {needed}. Choose another --out."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


@contextmanager
def new_folder(path: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` if all goes well.

    The manifest is written last. On any failure the half-written folder is removed and `path`
    stays as it was.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
