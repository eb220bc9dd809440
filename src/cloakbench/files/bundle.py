"""The miniature and its people, which come with the package, found from any folder."""

from __future__ import annotations

from pathlib import Path

CHANGES_NO_RESULT = True

_PACKAGE = Path(__file__).parents[1]
_ROOTS = (_PACKAGE, _PACKAGE.parents[1])  # of an installed wheel, and of a checkout


def bundled(path: Path) -> Path:
    """A path as it is; or, if nothing is there, the bundled thing of that name (resources/mini)."""
    if not path.is_absolute() and path.parts[:1] == ("resources",) and not path.exists():
        return next((root / path for root in _ROOTS if (root / path).exists()), path)
    return path
