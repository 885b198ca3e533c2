"""Intervals against hand-worked numbers and naive references."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.statistics import (
    ALL_LEVELS,
    Interval,
    mean_interval,
    paired_difference,
    pass_rates,
    wilson_interval,
)


def test_wilson_of_8_out_of_10_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459: centre (0.8 + 0.19207) / 1.384146 = 0.716738,
    # half 1.959964 * sqrt(0.016 + 0.00960365) / 1.384146 = 0.226574
    interval = wilson_interval(8, 10)
    assert interval.low == pytest.approx(0.490162, abs=2e-5)
    assert interval.high == pytest.approx(0.943318, abs=2e-5)


def test_wilson_of_none_and_all() -> None:
    # With no success the upper end is z^2 / (n + z^2).
    none = wilson_interval(0, 20)
    assert none.low == 0
    assert none.high == pytest.approx(3.841459 / 23.841459, abs=1e-6)
    every = wilson_interval(20, 20)
    assert every.high == 1
    assert every.low == pytest.approx(1 - none.high, abs=1e-12)


@given(num_problems=st.integers(1, 400), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_ends_solve_its_equation(num_problems: int, data: st.DataObject, confidence: float) -> None:
    """Wilson's definition: the ends are the rates p at which |rate - p| is z standard errors of p."""
    num_solved = data.draw(st.integers(0, num_problems))
    interval = wilson_interval(num_solved, num_problems, confidence=confidence)
    rate = num_solved / num_problems
    assert 0 <= interval.low <= rate <= interval.high <= 1
    z = _naive_quantile(confidence)
    for end in (interval.low, interval.high):
        if 1e-6 < end < 1 - 1e-6:
            distance = z * math.sqrt(end * (1 - end) / num_problems)
            assert abs(rate - end) == pytest.approx(distance, rel=1e-5, abs=1e-7)


def _naive_quantile(confidence: float) -> float:
    """Bisection on the error function."""
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < confidence else (low, middle)
    return low


@pytest.mark.parametrize(("solved", "problems"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(solved: int, problems: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        wilson_interval(solved, problems)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 2, confidence=confidence)


def test_paired_difference_of_equal_outcomes_is_exactly_0() -> None:
    result = paired_difference([1, 0, 1], [1, 0, 1], seed=0)
    assert (result.difference, result.interval.low, result.interval.high) == (0, 0, 0)
    assert not result.significant


def test_paired_difference_of_a_constant_gain_has_no_width() -> None:
    result = paired_difference([0, 0, 0, 0], [1, 1, 1, 1], seed=0)
    assert (result.difference, result.interval.low, result.interval.high) == (1, 1, 1)
    assert result.significant


def test_pairing_counts() -> None:
    """Both differ by 10 of 100: alone beyond doubt, but not when as many again go back and forth."""
    one_way = paired_difference([0] * 100, [1] * 10 + [0] * 90, seed=0)
    both_ways = paired_difference([1] * 45 + [0] * 55, [0] * 45 + [1] * 55, seed=0)
    assert one_way.difference == pytest.approx(both_ways.difference)
    assert one_way.significant
    assert not both_ways.significant


def test_paired_difference_is_repeatable_and_depends_on_the_seed() -> None:
    first, second = [0, 1, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 0, 0, 1]
    assert paired_difference(first, second, seed=1) == paired_difference(first, second, seed=1)
    chance = random.Random(0)
    first_f, second_f = ([chance.random() for _ in range(9)] for _ in range(2))
    intervals = {paired_difference(first_f, second_f, seed=seed).interval for seed in range(4)}
    assert len(intervals) == 4


def test_paired_difference_agrees_with_resampling_problems_one_by_one() -> None:
    chance = random.Random(5)
    first = [float(chance.random() < 0.4) for _ in range(120)]
    second = [float(chance.random() < 0.6) for _ in range(120)]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    means = sorted(sum(chance.choices(differences, k=120)) / 120 for _ in range(4000))
    result = paired_difference(first, second, seed=0, num_resamples=4000)
    assert result.difference == pytest.approx(sum(differences) / 120)
    assert result.interval.low == pytest.approx(means[100], abs=0.02)
    assert result.interval.high == pytest.approx(means[3900], abs=0.02)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1, 0])])
def test_unpaired_outcomes_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="there must be as many of each"):
        paired_difference(first, second, seed=0)


def test_pass_rates_are_rows_in_the_order_of_levels_and_all_last() -> None:
    outcomes = [("olympiad", False), ("easy", True), ("easy", False), ("extra", True)]
    rows = pass_rates(outcomes, levels=["easy", "medium", "olympiad"])
    assert [(row.level, row.num_solved, row.num_problems) for row in rows] == [
        ("easy", 1, 2), ("olympiad", 0, 1), ("extra", 1, 1), (ALL_LEVELS, 2, 4),
    ]  # fmt: skip
    assert rows[0].rate == 0.5
    assert rows[0].interval == wilson_interval(1, 2)


def test_no_outcomes_give_no_rows() -> None:
    assert pass_rates([]) == []


def test_the_interval_of_a_mean_is_that_of_its_difference_to_nothing() -> None:
    chance = random.Random(2)
    outcomes = [chance.choice([0, 0.25, 1]) for _ in range(80)]
    means = sorted(sum(chance.choices(outcomes, k=80)) / 80 for _ in range(4000))
    interval = mean_interval(outcomes, seed=0, num_resamples=4000)
    assert interval.low == pytest.approx(means[100], abs=0.02)
    assert interval.high == pytest.approx(means[3900], abs=0.02)
    assert interval == mean_interval(outcomes, seed=0, num_resamples=4000)
    assert interval != mean_interval(outcomes, seed=1, num_resamples=4000)


def test_the_interval_of_equal_outcomes_has_no_width_and_that_of_none_does_not_exist() -> None:
    assert mean_interval([0.5] * 7, seed=0) == Interval(0.5, 0.5)
    with pytest.raises(ValueError, match="there must be at least one"):
        mean_interval([], seed=0)
