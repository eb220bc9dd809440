"""The label columns that every row of scores starts with."""

from __future__ import annotations

from collections.abc import Sequence

from cloakbench.layout import Cell

CELL_LABELS = tuple(Cell.__dataclass_fields__)
PHOTO_LABELS = CELL_LABELS[:-1]  # photos are protected and purified before a trainer sees them


def label(cell: Cell, names: Sequence[str] = CELL_LABELS) -> dict[str, str]:
    """A cell's labels as the first columns of a row."""
    return {name: getattr(cell, name) for name in names}
