"""Errors that a user can act on."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class CloakBenchError(Exception):
    """One line that names the file or key, says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 1.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, for the end of an error line."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def explain_os_error(error: OSError) -> str | None:
    """One line for the failures of a file system that users meet; None for any other error."""
    where = error.filename or "the results folder"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return (
                f"{where}: the disk is full. Free some space and run the same command again; "
                "finished work is kept."
            )
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return (
                f"{where}: a file is where a folder is needed, or the reverse. Choose another path."
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"{where}: cannot be written. Choose another folder or change its permissions, "
                "then run the same command again."
            )
    return None
