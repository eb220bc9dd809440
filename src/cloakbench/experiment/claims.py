"""The ledger: claims that are written down before an experiment runs, and how each is tested."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from cloakbench.errors import CloakBenchError, nearest, reason
from cloakbench.files.layout import METHOD_LABELS
from cloakbench.files.reading import parse_yaml
from cloakbench.registry import explain
from cloakbench.score.base import SetMetric, metrics
from cloakbench.settings import Settings

S = TypeVar("S", bound=Settings)

_CELL = re.compile(r"([^@]*(?:@\d+(?=@|$))?)@?(.*)")  # a trainer's label may end in steps


class Claim(Settings):
    """What is claimed, by whom, and what decides it.

    Cells are written `protection/purification/trainer`, with `@prompt` for the samples of one
    prompt; `protection/purification` are photos. `.../trainer@50` are samples of a snapshot.
    """

    claim: str = Field(description="what is claimed, in a sentence")
    source: str = Field(description="who claims it: paper and section")
    endpoint: str = Field(description="the metric that decides")
    test: Literal["lower", "higher", "level", "trend"] = Field(
        description="the first cell is lower or higher than each of the others, or level with each "
        "of them; or values rise on the whole from the first to the last"
    )
    cells: tuple[str, ...] = Field(min_length=2, description="the cells that are compared")
    margin: float = Field(0, ge=0, description="level: the least difference that would matter")

    @model_validator(mode="after")
    def _is_testable(self) -> Self:
        if (self.test == "level") != (self.margin > 0):
            raise ValueError("a margin is for the test 'level', which needs one")
        if self.test == "trend" and len(self.cells) < 3:
            raise ValueError("a trend needs three cells")
        if len(set(self.cells)) < len(self.cells) or len({c.count("/") for c in self.cells}) > 1:
            raise ValueError("cells are compared with others of their kind, each once")
        return self

    @property
    def of_photos(self) -> bool:
        """Whether photos are compared, not samples."""
        return self.cells[0].count("/") < len(METHOD_LABELS) - 1


class Ledger(Settings):
    """A family of claims; Holm's correction counts all of them, whether they were tested or not.

    Other files are other families: nothing is corrected for their number, so that of three at a
    level of 0.01 one or more claims are decided wrongly with a probability of at most 0.03.
    """

    family: str = Field(min_length=1, description="what the claims are about, in a few words")
    experiment: str = Field(description="the experiment that decides them, by its name")
    people: int = Field(ge=2, description="how many people it is planned with")
    level: float = Field(
        0.01, gt=0, lt=1, description="how likely one claim or more of all may be decided wrongly"
    )
    claims: list[Claim] = Field(min_length=1, description="the claims")

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a YAML file.

        Raises:
            CloakBenchError: it is not there, is not valid YAML, or says something else.
        """
        return read_as(cls, path)

    def check(
        self, name: str, samples: Measured, photos: Measured, prompts: Collection[str]
    ) -> None:
        """Find out whether an experiment has what the claims are about.

        Raises:
            CloakBenchError: the experiment is not the claims', or a claim names a cell, a prompt or
                a metric that it does not have.
        """
        if name != self.experiment:
            raise CloakBenchError(
                f"claims: '{self.family}' are decided by experiment '{self.experiment}', and this "
                f"is '{name}'. Name its own file of claims, or none."
            )
        for claim in self.claims:
            measured = photos if claim.of_photos else samples
            _known(claim, claim.endpoint, measured.metrics)
            for each in claim.cells:
                cell, prompt = _parts(each)
                _known(claim, cell, measured.cells)
                _known(claim, prompt, {"", *prompts})
                if prompt and issubclass(metrics[claim.endpoint], SetMetric):
                    raise CloakBenchError(
                        f"claims: '{claim.claim}': {claim.endpoint} is of a cell's samples of all "
                        f"prompts. Leave out '@{prompt}'."
                    )


def read_as(kind: type[S], path: Path) -> S:
    """Settings of a kind from a YAML file.

    Raises:
        CloakBenchError: it is not there, is not valid YAML, or says something else.
    """
    try:
        return kind.model_validate(parse_yaml(path.read_text("utf-8"), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or reason(error)
        raise CloakBenchError(
            f"{path}: cannot be read ({told}). The config's `claims` or `reported` names it."
        ) from None
    except ValidationError as error:
        raise CloakBenchError(f"{path}: {explain(error, kind)}") from None


class Measured(NamedTuple):
    """What an experiment measures of samples, or of photos: cells, as claims write them."""

    cells: Collection[str]
    metrics: Collection[str]


def _known(claim: Claim, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise CloakBenchError(
            f"claims: '{claim.claim}': the experiment has no '{name}': {nearest(name, names)}"
        )


def labels_of(name: str) -> dict[str, str]:
    """Columns and values of a table's rows that a cell, as claims write it, stands for."""
    cell, prompt = _parts(name)
    labels = dict(zip(METHOD_LABELS, cell.split("/"), strict=False))
    return labels | ({"prompt": prompt} if prompt else {})


def _parts(name: str) -> tuple[str, str]:
    """A cell, and the prompt whose samples of it are meant; "" for all."""
    found = _CELL.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")
