"""Outputs are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cloakbench.errors import CloakBenchError

CHANGES_NO_RESULT = True

log = logging.getLogger(__name__)

MANIFEST = "job.json"
"""What made a folder (stage, settings, seed) and the SHA-256 of its files. Nothing in it differs
between equal runs; by it Snakemake sees that a folder's content has changed."""

MARKER = ".cloakbench"
"""A file that says that a folder may be replaced, also after Snakemake has removed its manifest."""

FULL = 2**16
"""Bytes left on a disk on which nothing more can be done."""


def check_output(path: Path, *inputs: Path | None) -> None:
    """Find out before any work that a folder can be written and replaces nothing that is needed.

    Raises:
        CloakBenchError: it is, or holds, one of the inputs or the current folder, or it has files
            that no stage wrote.
        OSError: it cannot be written, or its disk is full.
    """
    target = path.resolve()
    for needed in (Path.cwd(), *(folder.resolve() for folder in inputs if folder is not None)):
        if target in (needed, *needed.parents):
            raise CloakBenchError(
                f"{path}: writing this folder would replace {needed}. Choose another --out."
            )
    if target.is_dir():
        held = {inside.name for inside in target.iterdir()}
        if held and not held & {MARKER, MANIFEST}:
            raise CloakBenchError(
                f"{path}: holds {min(held)}, which CloakBench did not write and would delete. "
                "Choose another --out."
            )
    check_writable(path)


def check_writable(path: Path) -> None:
    """Find out whether a file or folder can be written, and make the folder that it will be in.

    Raises:
        OSError: it cannot, or its disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    disk = shutil.disk_usage(path.parent)
    if disk.free < FULL <= disk.total:  # some network file systems say 0 for both
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))


@contextmanager
def new_folder(path: Path, manifest: Mapping[str, Any], kept: Path | None = None) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` if all goes well.

    The manifest is written last, with the digests of all other files. On any failure the
    half-written folder is removed and `path` stays as it was.

    kept: a folder that gets a second name of every file first, at no cost of space, for `restore`;
        where a file system has no second names, nothing is kept.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if kept is not None:
            with suppress(OSError):
                _link(part, kept)
        whole = {**manifest, "files": _digests(part)}
        (part / MARKER).touch()
        (part / MANIFEST).write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def read_manifest(folder: Path) -> str:
    """What a folder's manifest says, as it is.

    Raises:
        CloakBenchError: the folder has none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text("utf-8")
        if not isinstance(json.loads(text), dict):
            raise ValueError
    except OSError:
        raise CloakBenchError(
            f"{path}: not there to read. Name a folder that a stage wrote."
        ) from None
    except ValueError:
        raise CloakBenchError(f"{path}: is damaged. Make the folder again.") from None
    return text


def restore(kept: Path, path: Path, manifest: Mapping[str, Any]) -> bool:
    """Put back the folder of which `new_folder` kept a second name, if it did."""
    if not kept.is_dir():
        return False
    with new_folder(path, manifest) as folder:
        _link(kept, folder)
    return True


def _link(source: Path, target: Path) -> None:
    """Give every file of a folder a second name in another, which appears whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        copy_folder(source, part, os.link)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_folder(
    source: Path, target: Path, copy: Callable[[Path, Path], Any] = shutil.copyfile
) -> None:
    """Copy files and folders; unlike `shutil.copytree`, fail with the system's own first error."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, target / path.name, copy)
        else:
            copy(path, target / path.name)


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


_HELD: dict[Path, IO[str]] = {}


def hold(lock: Path) -> str | None:
    """Hold a lock file until this process ends, however it ends; say who holds it if not we.

    Where a file system has no locks, a warning is all.
    """
    import fcntl

    if lock in _HELD:
        return None
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            return file.read() or "another process"
    except OSError as error:
        log.warning("%s: no locks there (%s). See that nothing else writes there.", lock, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _HELD[lock] = file
    return None
