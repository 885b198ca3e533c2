"""Selection scores against numbers worked by hand, and their shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.scores import length_normalised_probability, puct, uct

q_values = st.floats(-1, 1)
counts = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("q_value", "visits", "parent_visits", "c_uct", "by_hand"),
    [
        (0.5, 1, 1, 2.0, 0.5),  # ln 1 = 0
        (-1.0, 3, 1, 2.0, -1.0),
        (0.0, 4, 8, 2.0, 1.442027),  # 2 sqrt(2.079442 / 4) = 2 * 0.7210135
        (0.25, 2, 10, 1.0, 1.322983),  # 0.25 + sqrt(2.302585 / 2) = 0.25 + 1.072983
        (-0.5, 9, 100, 0.0, -0.5),
        (0.3, 1, 0, 2.0, 0.3),  # a parent never visited counts as visited once
    ],
)
def test_uct_by_hand(q_value: float, visits: int, parent_visits: int, c_uct: float, by_hand: float) -> None:
    assert uct(q_value, visits, parent_visits, c_uct=c_uct) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    ("q_value", "prior", "visits", "parent_visits", "c_puct", "by_hand"),
    [
        (0.0, 0.5, 0, 9, 2.0, 3.0),  # 2 * 0.5 * 3 / 1
        (0.5, 0.25, 3, 16, 2.0, 1.0),  # 0.5 + 2 * 0.25 * 4 / 4
        (-1.0, 1.0, 1, 4, 1.0, 0.0),  # -1 + 1 * 1 * 2 / 2
        (0.0, 0.8, 0, 0, 1.0, 0.8),  # a parent never visited counts as visited once: the prior decides
        (0.7, 0.0, 5, 50, 2.0, 0.7),
    ],
)
def test_puct_by_hand(
    q_value: float, prior: float, visits: int, parent_visits: int, c_puct: float, by_hand: float
) -> None:
    assert puct(q_value, prior, visits, parent_visits, c_puct=c_puct) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("visits", [0, -1])
def test_uct_of_an_unvisited_child_is_an_error_that_names_the_setting(visits: int) -> None:
    with pytest.raises(ValueError, match="unvisited_score"):
        uct(0.0, visits, 1, c_uct=2.0)


@given(q_values, counts, counts, st.floats(0, 10))
def test_uct_never_falls_below_q_and_falls_with_visits(q: float, n: int, parent: int, c: float) -> None:
    assert uct(q, n, parent, c_uct=c) >= q
    assert uct(q, n, parent, c_uct=c) >= uct(q, n + 1, parent, c_uct=c)
    assert uct(q, n, parent, c_uct=c) <= uct(q, n, parent + 1, c_uct=c)


@given(q_values, st.floats(0, 1), st.integers(0, 10_000), counts, st.floats(0, 10))
def test_puct_never_falls_below_q_and_grows_with_the_prior(
    q: float, prior: float, n: int, parent: int, c: float
) -> None:
    assert puct(q, prior, n, parent, c_puct=c) >= q
    assert puct(q, prior, n, parent, c_puct=c) <= puct(q, 1.0, n, parent, c_puct=c)
    assert puct(q, prior, n, parent, c_puct=c) >= puct(q, prior, n + 1, parent, c_puct=c)


@pytest.mark.parametrize(
    ("logprobs", "probability"),
    [
        ([math.log(0.5), math.log(0.5)], 0.5),
        ([math.log(0.9), math.log(0.1)], 0.3),
        ([0.0], 1.0),
        ([1e-9], 1.0),  # rounding above zero stays a probability
    ],
)
def test_the_prior_is_the_geometric_mean_of_token_probabilities(
    logprobs: list[float], probability: float
) -> None:
    mean = sum(logprobs) / len(logprobs)
    assert length_normalised_probability(mean) == pytest.approx(probability)
