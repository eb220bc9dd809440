"""Budgets are whole grey levels, however they are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cloakbench.errors import CloakBenchError
from cloakbench.protect import protections
from cloakbench.settings import Levels, parse_levels


class Budget(BaseModel):
    levels: Levels


@given(st.integers(0, 255))
def test_every_way_to_write_a_budget_means_the_same(levels):
    ways = [levels, float(levels), f"{levels}/255", f" {levels} / 255 ", f"{levels}.0/255"]

    assert [parse_levels(way) for way in ways] == [levels] * 5


@given(st.integers(0, 255))
def test_a_budget_survives_being_written_and_read(levels):
    written = Budget(levels=levels).model_dump(mode="json")

    assert written == {"levels": f"{levels}/255"}
    assert Budget.model_validate(written).levels == levels


@given(st.integers(max_value=-1) | st.integers(min_value=256))
def test_a_budget_outside_the_range_is_refused(levels):
    for way in (levels, f"{levels}/255"):
        with pytest.raises(ValueError, match="between 0/255 and 255/255"):
            parse_levels(way)


@given(st.floats(0, 255).filter(lambda x: not x.is_integer()))
def test_a_fractional_budget_is_refused(levels):
    with pytest.raises(ValueError, match="whole number of grey levels"):
        parse_levels(levels)


@pytest.mark.parametrize(
    "value", [None, True, "", "11", "11/256", "0.05", "1e1/255", "a/255", [11], math.nan, math.inf]
)
def test_what_is_no_budget_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match=r"like 11/255"):
        parse_levels(value)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ("-1/255", "between"),
        ("11.5/255", "whole"),
        (256, "between"),
        (0.05, "whole"),
        ("x", "like"),
    ],
)
def test_a_bad_budget_of_a_protection_is_named_with_its_key(budget, reason):
    with pytest.raises(CloakBenchError, match=rf"protection 'aspl': budget = .*{reason}"):
        protections.build({"method": "aspl", "budget": budget})
