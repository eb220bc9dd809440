"""Results are read as they were written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cloakbench.errors import CloakBenchError
from cloakbench.files.digest import digest
from cloakbench.files.outputs import MANIFEST, MARKER, digests_of, new_file, sha256

CHANGES_NO_RESULT = True


class Source(NamedTuple):
    """What a file or folder was when it was read.

    key: of the record of what made it (see `running.record`); None where no stage did.
    contents: a digest of its files, by their names in it.
    """

    key: str | None
    contents: str


def verified(folder: Path) -> Path:
    """A folder, or a folder or file within one, that is just what the stage which made it wrote.

    A folder that no stage made is the user's, and is taken as it is.

    Raises:
        CloakBenchError: a file is missing, changed or not the stage's, or the manifest is damaged.
    """
    made = _made(folder)
    return folder if made is None else _checked(folder, made)


def is_whole(folder: Path) -> bool:
    """Whether a folder that a stage made holds just what the stage wrote."""
    try:
        return _checked(folder, folder) == folder
    except CloakBenchError:
        return False


def read_source(path: Path) -> Source:
    """What the manifest of a result, or of a folder in one, says of it; of what is the user's, what
    is there.

    Raises:
        CloakBenchError: the manifest is damaged, or a file may not be read.
    """
    manifest: dict[str, Any] | None
    if path.is_file():
        manifest, own = load_manifest(beside(path)), {path.name: sha256(path)}
    else:
        made = _made(path)
        manifest = None if made is None else load_manifest(made / MANIFEST)
        files = {} if made is None else {made / name: each for name, each in _files(made).items()}
        own = {str(p.relative_to(path)): d for p, d in files.items() if p.is_relative_to(path)}
    if own and manifest is not None:
        return Source(manifest.get("key"), digest(own))
    there = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return Source(None, digest(own or {str(p.relative_to(path)): sha256(p) for p in there}))


def beside(path: Path) -> Path:
    """Where the manifest of a file is that is a result by itself."""
    return path.with_name(f"{path.name}.{MANIFEST}")


def seal(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with the SHA-256 of a file beside it, or with those of a folder's files into
    the folder.
    """
    files = digests_of(path) if path.is_dir() else {path.name: sha256(path)}
    whole = {**manifest, "files": files}
    with new_file(path / MANIFEST if path.is_dir() else beside(path)) as part:
        part.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sealed(path: Path) -> Path:
    """A file that is as it was when it was sealed.

    Raises:
        CloakBenchError: it was changed, or its manifest is missing, damaged or another's.
        FileNotFoundError: it is not there.
    """
    digest, manifest = sha256(path), load_manifest(beside(path))
    if manifest is None or manifest["files"] != {path.name: digest}:
        raise CloakBenchError(
            f"{path}: is not as it was written, by {beside(path).name} beside it. Delete it and "
            "run the command that made it, or snakemake, again."
        )
    return path


def load_manifest(path: Path) -> dict[str, Any] | None:
    """What a manifest says; None where it is missing, or damaged."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and {"stage", "files"} <= said.keys() else None


def read_manifest(result: Path) -> str:
    """What the manifest of a folder, or of a file that is a result by itself, says, as it is.

    Raises:
        CloakBenchError: there is none, or it is damaged.
    """
    path = beside(result) if result.is_file() else result / MANIFEST
    try:
        text = path.read_text("utf-8")
    except OSError:
        raise CloakBenchError(
            f"{path}: not there to read. Name a folder or file that a stage wrote."
        ) from None
    except ValueError:
        text = ""
    if load_manifest(path) is None:
        raise CloakBenchError(f"{path}: is damaged. Make {result} again.")
    return text


def _made(path: Path) -> Path | None:
    """The folder of the stage that wrote a folder: itself, or the one around it."""
    for folder in (path, path.parent):
        if (folder / MARKER).is_file() or load_manifest(folder / MANIFEST) is not None:
            return folder
    return None


def _checked(folder: Path, made: Path) -> Path:
    """A part of a stage's folder, after its files were compared with the manifest."""
    written = {made / name: digest for name, digest in _files(made).items()}
    own = {path: digest for path, digest in written.items() if path.is_relative_to(folder)}
    if not own:  # such as a user's folder beside results
        return folder
    there = [folder] if folder.is_file() else folder.rglob("*")
    found = {path for path in there if path.is_file() and path.name not in {MANIFEST, MARKER}}
    for path in sorted(found | own.keys()):
        if path not in found:
            raise _spoilt(path, "is missing", made)
        if path not in own:
            raise _spoilt(path, "was not written by CloakBench", made)
        if sha256(path) != own[path]:
            raise _spoilt(path, "is damaged or was changed", made)
    return folder


def _files(made: Path) -> dict[str, str]:
    """The digests of a stage's files, by their paths in its folder."""
    manifest = load_manifest(made / MANIFEST)
    try:
        assert manifest is not None
        return {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (AssertionError, AttributeError):
        what = "is damaged" if (made / MANIFEST).exists() else "is missing"
        raise _spoilt(made / MANIFEST, what, made) from None


def _spoilt(path: Path, what: str, made: Path) -> CloakBenchError:
    return CloakBenchError(
        f"{path}: {what}. Delete the folder {made} and run the command that made it, or "
        "snakemake, again."
    )
