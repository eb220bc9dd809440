"""Outputs are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cloakbench.errors import CloakBenchError, explain_os_error, reason

CHANGES_NO_RESULT = True

log = logging.getLogger(__name__)

MANIFEST = "job.json"
"""All that made a folder (see `running.record`) and the SHA-256 of its files. Nothing in it differs
between equal runs on one machine, but for what the work `took`."""

MARKER = ".cloakbench"
"""A file that names a folder's files: by it the folder may be replaced also after Snakemake has
removed its manifest."""

PART = ".part"
"""How hidden files end that are not whole; after a kill they may lie about."""

FULL = 2**16
"""Bytes left on a disk on which nothing more can be done."""

LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems that there are."""


def check_output(path: Path, *inputs: Path | None) -> None:
    """Find out before any work that a folder can be written and replaces nothing that is needed.

    Raises:
        CloakBenchError: it is, holds or lies in one of the inputs, it holds the current folder, or
            it has files that no stage wrote.
        OSError: it cannot be written, or its disk is full.
    """
    target = path.resolve()
    for needed in (Path.cwd(), *(folder.resolve() for folder in inputs if folder is not None)):
        if target in (needed, *needed.parents):
            raise CloakBenchError(
                f"{path}: writing this folder would replace {needed}. Choose another --out."
            )
    _check_outside(path, inputs, "--out")
    if target.exists() and not target.is_dir():
        raise CloakBenchError(f"{path}: is a file, not a folder to replace. Choose another --out.")
    if target.is_dir() and (foreign := _files(target) - _written(target)):
        raise CloakBenchError(
            f"{path}: holds {min(foreign)}, which CloakBench did not write and would delete. "
            "Move it away, or choose another --out."
        )
    check_writable(path)


def check_file(path: Path, *inputs: Path | None, option: str = "--output") -> None:
    """Find out before any work that a file can be written and replaces nothing that is needed.

    Raises:
        CloakBenchError: it is, or lies in, one of the inputs, or is there and no regular file.
        OSError: it cannot be written, or its disk is full.
    """
    _check_outside(path, inputs, option)
    if path.exists() and not path.is_file():
        raise CloakBenchError(
            f"{path}: is a folder or a device, not a file to replace. Choose another {option}."
        )
    check_writable(path)


def _check_outside(path: Path, inputs: Iterable[Path | None], option: str) -> None:
    target = path.resolve()
    for needed in (folder.resolve() for folder in inputs if folder is not None):
        if needed in (target, *target.parents):
            raise CloakBenchError(
                f"{path}: is, or lies in, {needed}, which is read. Choose another {option}."
            )


def _files(folder: Path) -> set[str]:
    """All that a folder holds but for empty folders."""
    held = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in held}


def _written(folder: Path) -> set[str]:
    """The files that a stage wrote into a folder, by its manifest or else by its marker."""
    for name, key in ((MANIFEST, "files"), (MARKER, None)):
        with suppress(OSError, ValueError, LookupError, TypeError):
            said = json.loads((folder / name).read_text("utf-8"))
            return {MANIFEST, MARKER, *(said[key] if key else said)}
    return set()


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

    The manifest is written last, with the digests of all other files, and with what it was given
    inside. On any failure the half-written folder is removed and `path` stays as it was; a kill
    leaves it as it was, too, or the new one, or until the next try none. What is there is on the
    disk, so that the checkpoints behind it can go.

    kept: a folder that gets a second name of every file first, at no cost of space, for `restore`;
        where a file system has no second names, nothing is kept.
    """
    path = path.resolve()
    part, old = _part(path), _old(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if old.exists() and not path.exists():
        os.replace(old, path)
    try:
        yield part
        whole = {**manifest, "files": digests_of(part)}
        (part / MARKER).write_text(json.dumps([*whole["files"]]))
        (part / MANIFEST).write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
        for written in (*part.rglob("*"), part):
            _sync(written)
        if kept is not None:
            with suppress(OSError):
                _link(part, kept)
        _take_place(part, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def file_state(path: Path) -> str:
    """What differs after any change of a file, or if another takes its place: cheap, and finer than
    size and time, which are equal among photos from one archive and weights of one network.
    """
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits.

    Raises:
        CloakBenchError: it may not be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        raise CloakBenchError(f"{path}: cannot be read. Change its permissions.") from None


def digests_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of what a stage wrote, by paths in its folder."""
    ours = {folder / MARKER, folder / MANIFEST}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in ours)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def restore(kept: Path, path: Path) -> None:
    """Put back the folder of which `new_folder` kept a second name."""
    _link(kept, path.resolve())


def _link(source: Path, target: Path) -> None:
    """Give every file of a folder a second name in another, which appears whole or not at all."""
    part = _part(target)
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
    """Copy whole files; unlike `shutil.copytree`, fail with the system's own first error."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, target / path.name, copy)
        elif path.suffix != PART:
            copy(path, target / path.name)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` if all goes well, and is on the disk then: a
    power cut leaves the old one or the new one.

    It is new and has a name that nobody can know before, so that no link leads elsewhere.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _take_place(part: Path, path: Path) -> None:
    """Put a folder where another may be, which is back if that fails."""
    old = _old(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(part, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _part(path: Path, ending: str = PART) -> Path:
    """Under which name a file or folder is written, beside its place."""
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{ending}"
    return path.with_name(name)


def _old(path: Path) -> Path:
    """Under which name a folder waits until another has taken its place."""
    return _part(path, f".old{PART}")


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():  # of which some file systems know no waiting
            raise
    finally:
        os.close(opened)


_HELD: dict[Path, IO[str]] = {}
_HOLDER = "process "


def hold(lock: Path) -> str | None:
    """Hold a lock file until this process ends, however it ends; say who holds it if not we.

    Where a file system has no locks, a warning is all.

    Raises:
        CloakBenchError: it cannot be opened, or is no lock of ours.
    """
    import fcntl

    if lock in _HELD:
        return None
    file = _open_lock(lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            return file.read() or "another process"
    except OSError as error:
        log.warning("%s: no locks there (%s). See that nothing else writes there.", lock, error)
    file.seek(0)
    file.truncate()
    file.write(f"{_HOLDER}{os.getpid()} on {socket.gethostname()}")
    file.flush()
    _HELD[lock] = file
    return None


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock file, or what is there is none of ours."""
    import fcntl

    if lock in _HELD or not lock.exists():
        return False
    try:
        with _open_lock(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, CloakBenchError):
        return True
    except OSError:  # no locks there
        return False
    return False


def _open_lock(lock: Path) -> IO[str]:
    """Open a lock file to read and write, never through a link, nor a file of another kind."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(lock, flags, 0o666), "r+", errors="replace")
    except OSError as error:
        raise CloakBenchError(explain_os_error(error) or f"{lock}: {reason(error)}") from None
    if file.read(len(_HOLDER)) not in {"", _HOLDER}:
        file.close()
        raise CloakBenchError(f"{lock}: is no lock of CloakBench. Move it elsewhere.")
    file.seek(0)
    return file
