"""Results are read as they were written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import MANIFEST, MARKER, new_file, sha256

CHANGES_NO_RESULT = True


def verified(folder: Path) -> Path:
    """A folder, or a folder within one, that holds just what the stage which made it wrote.

    A folder that no stage made is the user's, and is taken as it is.

    Raises:
        CloakBenchError: a file is missing, changed or not the stage's, or the manifest is damaged.
    """
    for made in (folder, folder.parent):
        if (made / MARKER).is_file() or _is_ours(made / MANIFEST):
            return _checked(folder, made)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder that a stage made holds just what the stage wrote."""
    try:
        return _checked(folder, folder) == folder
    except CloakBenchError:
        return False


def seal(path: Path) -> None:
    """Write a file's SHA-256 beside it, as `sha256sum --check` reads it."""
    with new_file(_seal(path)) as part:
        part.write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")


def sealed(path: Path) -> Path:
    """A file that is as it was when it was sealed.

    Raises:
        CloakBenchError: it was changed, or its seal is missing or not its own.
        FileNotFoundError: it is not there.
    """
    digest = sha256(path)
    try:
        whole = _seal(path).read_text(encoding="utf-8") == f"{digest}  {path.name}\n"
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise CloakBenchError(
            f"{path}: is not as it was written, by {_seal(path).name} beside it. Delete it and run "
            "the command that made it, or snakemake, again."
        )
    return path


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _checked(folder: Path, made: Path) -> Path:
    """A part of a stage's folder, after its files were compared with the manifest."""
    written = {made / name: digest for name, digest in _files(made).items()}
    own = {path: digest for path, digest in written.items() if path.is_relative_to(folder)}
    if not own:  # such as a user's folder beside results
        return folder
    found = {
        path for path in folder.rglob("*") if path.is_file() and path.name not in {MANIFEST, MARKER}
    }
    for path in sorted(found | own.keys()):
        if path not in found:
            raise _spoilt(path, "is missing", made)
        if path not in own:
            raise _spoilt(path, "was not written by CloakBench", made)
        if sha256(path) != own[path]:
            raise _spoilt(path, "is damaged or was changed", made)
    return folder


def _is_ours(manifest: Path) -> bool:
    """Whether a file of the manifest's name is one: a user may have another."""
    try:
        return {"stage", "files"} <= json.loads(manifest.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _files(made: Path) -> dict[str, str]:
    try:
        manifest: Any = json.loads((made / MANIFEST).read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in manifest["files"].items()}
    except FileNotFoundError:
        raise _spoilt(made / MANIFEST, "is missing", made) from None
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        raise _spoilt(made / MANIFEST, "is damaged", made) from None


def _spoilt(path: Path, what: str, made: Path) -> CloakBenchError:
    return CloakBenchError(
        f"{path}: {what}. Delete the folder {made} and run the command that made it, or "
        "snakemake, again."
    )
