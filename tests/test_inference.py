"""Intervals and tests: how often they are right, and that they are what they are called."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from cloakbench.tables.inference import (
    both_sides,
    holm,
    mean_interval,
    p_above,
    p_beyond,
    p_differs,
    p_rising,
    p_within,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
NORMAL: Draw = lambda rng, n: rng.normal(0, 1, n)  # noqa: E731
SKEWED: Draw = lambda rng, n: rng.exponential(1, n) - 1  # noqa: E731

values = st.lists(st.floats(-100, 100), min_size=5, max_size=9)


@given(values)
def test_an_interval_holds_the_mean_and_keeps_the_bounds(given_values: list[float]) -> None:
    mean, low, high, n = mean_interval(np.array(given_values), (-100, 100))

    assert n == len(given_values)
    assert -100 <= low <= high <= 100
    assert low - 1e-9 <= mean <= high + 1e-9


@given(values)
def test_equal_values_give_equal_intervals(given_values: list[float]) -> None:
    array = np.array(given_values)

    np.testing.assert_equal(mean_interval(array), mean_interval(array.copy()))


@pytest.mark.parametrize("draw", [NORMAL, SKEWED], ids=["normal", "skewed"])
@pytest.mark.parametrize("n", [8, 16])
def test_intervals_hold_the_truth_as_often_as_they_say(draw: Draw, n: int) -> None:
    rng = np.random.default_rng(n)

    intervals = [mean_interval(draw(rng, n)) for _ in range(1000)]

    assert 0.93 <= np.mean([low <= 0 <= high for _, low, high, _ in intervals]) <= 0.97


@pytest.mark.parametrize("draw", [NORMAL, SKEWED], ids=["normal", "skewed"])
@pytest.mark.parametrize("n", [16, 48])
def test_intervals_of_claims_hold_it_as_often_as_they_say(draw: Draw, n: int) -> None:
    rng = np.random.default_rng(n)

    intervals = [mean_interval(draw(rng, n), level=0.99) for _ in range(500)]

    assert 0.98 <= np.mean([low <= 0 <= high for _, low, high, _ in intervals]) <= 0.998


@pytest.mark.parametrize("n", [5, 7])
def test_intervals_of_few_normal_values_hold_it_too(n: int) -> None:
    rng = np.random.default_rng(n)

    intervals = [mean_interval(rng.normal(size=n)) for _ in range(2000)]

    assert 0.94 <= np.mean([low <= 0 <= high for _, low, high, _ in intervals]) <= 0.96


def test_one_person_unlike_all_others_makes_a_wide_interval() -> None:
    """The bootstrap alone would end it at the mean."""
    mean, low, high, _ = mean_interval(np.array([0.0] * 7 + [1.0]), (0, 1))

    assert (mean, low) == (0.125, 0)
    assert high > 0.4


def test_a_higher_level_gives_a_wider_interval() -> None:
    sample = np.random.default_rng(0).normal(size=9)
    _, low, high, _ = mean_interval(sample)
    _, lower, higher, _ = mean_interval(sample, level=0.99)

    assert lower < low < high < higher


def test_fewer_than_five_values_have_no_interval_and_missing_ones_are_left_out() -> None:
    assert np.isnan(mean_interval(np.array([0.0, 1, 2, 3]))[1:3]).all()
    assert mean_interval(np.array([np.nan, 0.0, 1.0]))[::3] == (0.5, 2)
    assert np.isnan(mean_interval(np.array([np.nan, 0.0, 1, 2, 3]))[1:3]).all()
    assert mean_interval(np.array([np.nan])).n == 0


def test_where_all_agree_the_bounds_limit_what_others_may_do() -> None:
    """Of six people none: at most 46 % of all people, with 2.5 % in the upper tail."""
    mean, low, high, n = mean_interval(np.zeros(6), (0, 1))

    assert (mean, low, n) == (0, 0, 6)
    assert (1 - high) ** 6 == pytest.approx(0.025)
    assert np.isnan(mean_interval(np.zeros(6))[1:3]).all()


@pytest.mark.parametrize("images", [10, 12, 30])
def test_shares_of_few_images_that_agree_agree_whatever_floats_make_of_them(images: int) -> None:
    shares = np.arange(images) / images
    floats = (shares + 1 / images) - shares
    assert len(set(floats)) > 1

    made = mean_interval(floats, (-1, 1))

    assert made == pytest.approx(mean_interval(np.full(images, 1 / images), (-1, 1)))
    assert made.high - made.low > 0.1


def test_one_of_twelve_who_differs_makes_no_interval_without_end() -> None:
    values = np.full(12, 0.1)
    values[0] = 0.2

    assert mean_interval(values).high < 0.2
    assert p_within(values, 0.15) < 0.01


def every_flip(x: np.ndarray) -> float:
    flips = np.array([*itertools.product((1, -1), repeat=len(x))])
    return float(np.mean(flips @ x >= x.sum() - 1e-9))


@given(st.lists(st.integers(-5, 9), min_size=2, max_size=7), st.integers(-2, 2))
def test_the_sign_flip_test_counts_every_flip(numbers: list[int], limit: int) -> None:
    x = np.array(numbers, dtype=float)

    assert p_above(x, limit) == pytest.approx(every_flip(x - limit))


def test_six_people_cannot_reach_one_percent() -> None:
    assert p_differs(np.arange(1.0, 7)) == 2 / 2**6
    assert p_differs(np.arange(1.0, 9)) == 2 / 2**8


@given(st.lists(st.floats(-9, 9), min_size=5, max_size=8))
def test_the_sign_of_all_values_does_not_matter_to_a_two_sided_test(numbers: list[float]) -> None:
    x = np.array(numbers)

    assert p_differs(x) == p_differs(-x)
    assert 0 < p_differs(x) <= 1


@pytest.mark.parametrize("n", [9, 13])
def test_p_is_that_of_all_flips_or_very_little_more(n: int) -> None:
    """As much more as values that are lower by a step of the grid would have."""
    for x in np.random.default_rng(n).normal(0.5, 1, (5, n)):
        lower = x - np.abs(x).sum() * 1.001e-5

        assert every_flip(x) <= p_above(x) <= every_flip(lower)
        assert p_above(x) == pytest.approx(every_flip(x), rel=0.01)


@pytest.mark.parametrize("contrary", [0, 3, 20])
def test_p_has_no_floor_for_many_people(contrary: int) -> None:
    """Where all values are as large, flips are tosses of a coin."""
    x = np.repeat([-0.3, 0.3], [contrary, 48 - contrary])

    tosses = sum(math.comb(48, k) for k in range(contrary + 1)) / 2**48

    assert p_above(x) == pytest.approx(tosses, rel=1e-9)
    assert p_differs(x) == pytest.approx(2 * tosses, rel=1e-9)


def test_48_people_who_differ_have_a_p_far_below_what_draws_could_show() -> None:
    """Of 32 all flips can be counted: by the sums of two halves, one of them sorted."""
    x = np.random.default_rng(1).normal(0.9, 1, 32)
    halves = [np.array([0.0]), np.array([0.0])]
    for k, value in enumerate(x):
        halves[k % 2] = np.concatenate([halves[k % 2], halves[k % 2] + value])

    all_flips = np.searchsorted(np.sort(halves[0]), -halves[1], side="right").mean() / 2**16

    assert all_flips < 1e-4
    assert all_flips <= p_above(x) <= 1.02 * all_flips
    assert p_differs(np.concatenate([x, x[:16]])) < 1e-6


def test_one_value_tests_nothing() -> None:
    assert math.isnan(p_differs(np.array([0.3, np.nan])))


def test_level_with_needs_a_margin_that_the_values_stay_within() -> None:
    x = np.array([-0.02, 0.01, 0.03, -0.01, 0.02, 0.0, -0.02, 0.01])

    assert p_within(x, 0.05) == pytest.approx(1 / 2**8)
    assert p_within(x, 0.005) > 0.05
    assert p_within(x + 0.2, 0.05) == 1


def test_values_that_are_skewed_about_a_limit_are_beyond_it_as_seldom_as_is_said() -> None:
    """At 1 %; sign flips take them for symmetric."""
    rng = np.random.default_rng(0)
    studies = 1 - rng.exponential(size=(200, 48))  # of mean 0, with a long tail below

    flips, beyond = (
        np.mean([test(x, 0.0) <= 0.01 for x in studies]) for test in (p_above, p_beyond)
    )

    most = 0.01 + 2 * math.sqrt(0.01 * 0.99 / 200)
    assert beyond <= most < flips


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=12), st.integers(-2, 2))
def test_what_is_beyond_a_limit_is_so_by_every_test(numbers: list[int], limit: int) -> None:
    x = np.array(numbers, dtype=float)

    assert p_beyond(x, limit) >= p_above(x, limit)
    if np.ptp(x):
        student = ttest_1samp(x, limit, alternative="greater").pvalue
        assert p_beyond(x, limit) >= student * (1 - 1e-9)


def test_a_trend_of_many_people_is_exact_too() -> None:
    """By convolution of what the six orders of three values add to the statistic."""
    added = [np.dot((1, 2, 3), order) for order in itertools.permutations((1, 2, 3))]
    one = np.bincount(added) / 6
    of_all = reduce(np.convolve, [one] * 24)
    table = np.random.default_rng(5).normal((0, 0.3, 0.6), size=(24, 3))
    seen = np.sum((1, 2, 3) * (table.argsort().argsort() + 1))

    assert p_rising(table) == pytest.approx(of_all[seen:].sum())


def test_a_trend_is_one_of_order() -> None:
    rng = np.random.default_rng(0)
    rising = np.arange(4) + rng.normal(0, 0.3, (6, 4))

    assert p_rising(rising) < 0.001
    assert p_rising(rising[:, ::-1]) > 0.99
    assert math.isnan(p_rising(rising * np.nan))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6))
def test_holm_adjusts_the_kth_least_by_what_is_left(p: list[float]) -> None:
    adjusted = holm(np.array(p))
    ranked, order = sorted(p), np.argsort(p, kind="stable")
    for k, place in enumerate(order):
        expected = max(min(1, (len(p) - i) * ranked[i]) for i in range(k + 1))
        assert adjusted[place] == pytest.approx(expected)


def test_holm_does_not_count_tests_that_there_are_not() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_the_likelier_of_two_opposites_pays_for_the_choice() -> None:
    assert both_sides(0.01, 0.99) == 0.02
    assert both_sides(0.6, 0.7) == 1


def test_a_family_without_effects_is_wrong_no_more_often_than_it_says() -> None:
    """At 5 %: one false claim or more of six, among eight people."""
    rng = np.random.default_rng(3)
    studies = [[p_differs(x) for x in rng.normal(size=(6, 8))] for _ in range(150)]

    wrong = np.mean([holm(np.array(p)).min() <= 0.05 for p in studies])

    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 150)
    assert np.mean(np.array(studies) <= 0.05) >= 0.03, "and not because nothing is ever found"
