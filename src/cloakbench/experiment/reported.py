"""Values that others report, for tables to stand beside what is measured."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cloakbench.experiment.claims import labels_of
from cloakbench.score.base import metrics
from cloakbench.settings import Settings


class Value(Settings):
    """One number of somebody's table."""

    cell: str = Field(
        description="protection/purification/trainer, by the labels of the config; of photos, "
        "protection/purification"
    )
    metric: str = Field(description="the metric that it is a mean of")
    value: float = Field(description="the mean")
    place: str = Field(description="where it is reported: the table")

    @property
    def of_photos(self) -> bool:
        """Whether it is of photos, not of samples."""
        return self.cell.count("/") == 1

    @model_validator(mode="after")
    def _is_of_a_cell(self) -> Self:
        if self.cell.count("/") not in (1, 2):
            raise ValueError("write a cell as protection/purification/trainer, or without trainer")
        if self.metric not in metrics.names():
            raise ValueError(f"unknown metric '{self.metric}'")
        if "prompt" in labels_of(self.cell):
            raise ValueError("means are of samples of all prompts: leave out '@' and prompt")
        return self


class Reported(Settings):
    """What one source reports."""

    source: str = Field(description="who reports it, and at which hand it is known")
    values: list[Value] = Field(min_length=1, description="the values")
