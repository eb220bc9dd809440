"""Errors that a user can act on."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

CHANGES_NO_RESULT = True

T = TypeVar("T")


class CloakBenchError(Exception):
    """One line that names the file or key, says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 1. Several problems can be
    one error: then each has its line, in `problems`.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = [one_line(each) for each in problems]
        super().__init__("\nerror: ".join(self.problems))


def every(calls: Iterable[Callable[[], T]]) -> list[T]:
    """What calls return.

    Raises:
        CloakBenchError: some raised it: all of their problems, each once.
    """
    found: list[T] = []
    problems: dict[str, None] = {}
    for call in calls:
        try:
            found.append(call())
        except CloakBenchError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise CloakBenchError(*problems)
    return found


def one_line(text: str) -> str:
    """Text in which what no line shows, such as a line break in a file's name, is spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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
        case errno.ENOENT | errno.ELOOP:
            return f"{where}: cannot be there ({error.strerror}). Choose another path."
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return (
                f"{where}: a file is where a folder is needed, or the reverse. Choose another path."
            )
        case errno.ENAMETOOLONG:
            return f"{where}: this name is too long. Choose a shorter one."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"{where}: cannot be written. Choose another folder or change its permissions, "
                "then run the same command again."
            )
    return None


def counted(number: int, noun: str) -> str:
    """A number of things: 1 photo, 2 photos."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reason(error: Exception, length: int = 200) -> str:
    """What a library says of a failure, on one line and no longer than needed."""
    return " ".join(str(error).split())[:length]


def first_line(error: Exception) -> str:
    """What a library says of a failure before it goes into detail."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_NO_MEMORY = ("OutOfMemoryError", "out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
_IN_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors passes on what the system said


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, has no memory left; PyTorch has several words for it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in f"{type(error).__name__}: {error}" for words in _NO_MEMORY)
    )


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Note on an error of memory that leaves what its method's user can do."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and advice:
            error.add_note(advice)
        raise


def some_of(ways: Mapping[str, bool]) -> str:
    """The ways that help, as `advising` wants them."""
    return ", ".join(way for way, helps in ways.items() if helps)


def explain_failure(error: Exception) -> str | None:
    """One line for what a machine lacks: space, permission, memory; None for any other error."""
    if is_out_of_memory(error):
        return (
            "out of memory. Use a device with more memory, or settings that need less (such as "
            "batch_size, where there is one), then run the same command again; finished work is "
            "kept."
        )
    if (said := _IN_RUST.search(str(error))) is not None:
        return explain_os_error(OSError(int(said[1]), str(error)))
    return explain_os_error(error) if isinstance(error, OSError) else None
