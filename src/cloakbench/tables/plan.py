"""What an experiment consists of, as the tables and the report need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cloakbench.errors import CloakBenchError
from cloakbench.layout import Cell


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Plan:
    """An experiment's name, its cells in the order of the tables, and its sampling prompts.

    prompts: prompt key (the folder name of the samples) to the words that were used; a key
    without words is shown as it is.
    """

    experiment: str
    cells: tuple[Cell, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan from JSON: `{"experiment": ..., "cells": [{...}], "prompts": {...}}`.

        Raises:
            CloakBenchError: the file is missing or is no plan.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CloakBenchError(f"{path}: no such plan. Check the path.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CloakBenchError(f"{path}: {where or 'the file'}: {first['msg']}.") from None
