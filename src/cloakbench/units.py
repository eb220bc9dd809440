"""Types of settings: budgets in whole grey levels, written as `11/255`, and users' paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

_FRACTION = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*/\s*255\s*")


def parse_levels(value: object) -> int:
    """Read a budget: `"11/255"` or the whole number 11.

    Raises:
        ValueError: not of that form, fractional, negative, or above 255 grey levels.
    """
    if isinstance(value, str) and (match := _FRACTION.fullmatch(value)):
        levels = float(match[1])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        levels = float(value)
    else:
        raise ValueError("write a budget in whole grey levels, like 11/255")
    if not levels.is_integer():
        raise ValueError("a budget is a whole number of grey levels, like 11/255")
    if not 0 <= levels <= 255:
        raise ValueError("a budget lies between 0/255 and 255/255")
    return int(levels)


Levels = Annotated[
    int,
    BeforeValidator(parse_levels),
    PlainSerializer(lambda levels: f"{levels}/255", return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["11/255"]}),
]
"""Largest change per channel value [grey levels of 255]; an int in code, `"11/255"` as data."""

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A file or folder that a user names, perhaps with `~`."""
