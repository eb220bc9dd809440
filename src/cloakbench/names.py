"""Names that become folders and parts of commands: of people, methods, models and results.

A cluster's submission goes through a shell that hardly quotes, and Snakemake gives some characters
a meaning of its own; so it is said here what a name may hold, and all else is refused.
"""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

CHANGES_NO_RESULT = True

MARKS = "._+-"
_PATH_MARKS = f"{MARKS}@()~ "
_BESIDE = (".json", ".csv", ".log", ".tsv")  # how files are called that lie beside such folders


def check_name(name: str, marks: str = f"{MARKS}@() ") -> str:
    """A name, if it can be a folder's and part of a command: letters and digits of any script, and
    some marks.

    Raises:
        ValueError: it cannot; what is wrong with it, and how to call it instead.
    """
    if not name.strip():
        raise ValueError("is empty. Give a name")
    good = "".join(each if _may_stand(each, marks) else "_" for each in name)
    if good != name:
        wrong = next(each for each in name if not _may_stand(each, marks))
        shown = wrong if wrong.isprintable() else ascii(wrong)[1:-1]
        reason = f"holds {shown} , which a shell or a workflow may act on"
    elif name[0] in "-. " or name[-1] == " ":
        reason = "starts with a dash or a dot, or has a space at an end"
    elif name.lower().endswith(_BESIDE):
        reason, good = "is called as a file that lies beside it", name.replace(".", "_")
    else:
        return name
    raise ValueError(f"{reason}. Call it {good.strip(' ').lstrip('-.') or 'another name'}")


def check_path(path: PurePath) -> None:
    """See that every folder of a path can be one.

    Raises:
        ValueError: see `check_name`.
    """
    for part in path.parts:
        if part not in {path.anchor, ".."}:
            check_name(part.lstrip(".") or part, _PATH_MARKS)


def _may_stand(character: str, marks: str) -> bool:
    return character in marks or unicodedata.category(character)[0] in "LMN"
