"""Settings and their types: budgets in whole grey levels, written as `11/255`; users' paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

CHANGES_NO_RESULT = True

_NUMBERS = {int, float}
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


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such user's folder. Write it in full") from None


UserPath = Annotated[Path, AfterValidator(_expanded)]
"""A file or folder that a user names, perhaps with `~`."""


class Settings(BaseModel):
    """Checked data that does not change: unknown keys are errors, and so are infinite numbers, and
    yes or no where a number is meant.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {kind, *get_args(kind)} & _NUMBERS:
            raise ValueError("a number is needed, not yes or no")
        return value
