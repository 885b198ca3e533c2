"""Expectations over subsets against plain enumeration; properties of pass@k and maj@k; equal budgets by hand."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.attempts import by_problem
from policy.evaluate import Evaluation, accuracy_table, at_equal_tokens, doublings, pass_at_k
from policy.selection import selected, votes_of
from policy.statistics import ALL_LEVELS
from rstar.selection import Method
from tests.policy import attempts as some
from tests.policy.attempts import Answer, attempts_at, problem

RIGHT: list[Answer] = [("R", 1.0)]
WRONG: list[Answer] = [("A", 0.0)]


@given(outcomes=st.lists(st.booleans(), min_size=1, max_size=9), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(
    outcomes: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(outcomes)))
    subsets = list(combinations(outcomes, k))
    expected = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k(len(outcomes), sum(outcomes), k) == pytest.approx(expected)


@given(n=st.integers(1, 200), data=st.data())
def test_pass_at_k_rises_with_k_from_the_rate_to_whether_any_is_right(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    values = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(c / n)
    assert values[-1] == (c > 0)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(n, c, k)


@given(trees=some.trees(), data=st.data())
@pytest.mark.parametrize("method", Method)
def test_an_outcome_is_the_mean_over_all_subsets_of_trees(
    trees: list[list[Answer]], data: st.DataObject, method: Method
) -> None:
    k = data.draw(st.integers(1, len(trees)))
    one = problem(trees)
    results = [
        selected([vote for tree in subset for vote in votes_of(tree, method)], method)
        for subset in combinations(one.trees, k)
    ]
    found = Evaluation([one], seed=0).outcome("p", method, k)
    assert found == pytest.approx(sum(results) / len(results))


@given(samples=some.samples())
def test_of_one_sample_every_method_is_pass_at_1(samples: list[list[Answer]]) -> None:
    evaluation = Evaluation([problem(samples)], seed=0)
    right = sum(bool(sample) and sample[0][0] == "R" for sample in samples)
    for method in Method:
        assert evaluation.outcome("p", method, 1) == pytest.approx(right / len(samples))


@given(samples=some.samples(), seed=st.integers(0, 99))
@pytest.mark.parametrize("method", Method)
def test_all_samples_together_do_not_depend_on_their_order_or_on_the_seed(
    samples: list[list[Answer]], seed: int, method: Method
) -> None:
    shuffled = random.Random(seed).sample(samples, len(samples))
    n = len(samples)
    expected = Evaluation([problem(samples)], seed=0).outcome("p", method, n)
    assert Evaluation([problem(shuffled)], seed=seed).outcome("p", method, n) == pytest.approx(expected)


@given(trees=some.trees())
def test_no_method_is_above_pass(trees: list[list[Answer]]) -> None:
    evaluation = Evaluation([problem(trees)], seed=0)
    for k in range(1, len(trees) + 1):
        limit = evaluation.outcome("p", Method.PASS, k)
        assert all(evaluation.outcome("p", method, k) <= limit + 1e-12 for method in Method)


def test_many_subsets_are_sampled_with_the_seed_and_come_close() -> None:
    chance = random.Random(1)
    samples: list[list[Answer]] = [[(chance.choice("RRABC"), 0.0)] for _ in range(14)]
    exact = Evaluation([problem(samples)], seed=0, num_subsets=10_000).outcome("p", Method.MAJORITY, 5)
    found = [
        Evaluation([problem(samples)], seed=seed, num_subsets=400).outcome("p", Method.MAJORITY, 5)
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert found[0] == pytest.approx(exact, abs=0.08)
    assert 0.1 < exact < 0.9


def test_a_curve_doubles_trees_and_tokens_up_to_all() -> None:
    problems = by_problem(
        attempts_at([RIGHT, WRONG, [], WRONG, WRONG], problem_id="a", tokens=10)
        + attempts_at([RIGHT] * 5, problem_id="b", tokens=20)
    )
    evaluation = Evaluation(problems, seed=0)
    curve = evaluation.curve(["a", "b"], Method.PASS)
    assert [point.num_trees for point in curve] == [1, 2, 4, 5]
    assert [point.tokens for point in curve] == [45, 90, 180, 225]  # a tree costs 30 of a and 60 of b
    assert [point.accuracy for point in curve] == pytest.approx([0.6, 0.7, 0.9, 1])
    assert all(point.interval.low <= point.accuracy <= point.interval.high for point in curve)
    assert doublings(1) == [1]
    assert doublings(16) == [1, 2, 4, 8, 16]


def test_a_table_has_a_row_per_level_and_one_for_all() -> None:
    lines = [
        *attempts_at([RIGHT], problem_id="a", level="easy"),
        *attempts_at([WRONG], problem_id="b", level="hard"),
        *attempts_at([RIGHT], problem_id="c", level="hard"),
    ]
    table = accuracy_table(Evaluation(by_problem(lines), seed=0), [Method.BEST], 1, levels=["hard"])
    found = {level: row[Method.BEST].accuracy for level, row in table.items()}
    assert found == {"hard": 0.5, "easy": 1.0, ALL_LEVELS: pytest.approx(2 / 3)}
    assert list(found) == ["hard", "easy", ALL_LEVELS]


@given(tokens=st.integers(1, 50), budget=st.floats(0, 2000), num=st.integers(1, 12))
def test_as_many_samples_fit_as_the_budget_pays_for(tokens: int, budget: float, num: int) -> None:
    evaluation = Evaluation([problem([WRONG] * num, tokens=tokens)], seed=0)
    fitting = evaluation.num_fitting(["p"], budget)
    assert 1 <= fitting <= num
    if fitting > 1:
        assert evaluation.tokens(["p"], fitting) <= budget + 1e-6
    if fitting < num:
        assert evaluation.tokens(["p"], fitting + 1) > budget - 1e-6
    assert evaluation.num_fitting(["p"], evaluation.tokens(["p"], num)) == num


def test_equal_tokens_by_hand() -> None:
    """A search of 40 tokens against samples of 15 tokens in the mean: two of them fit."""
    search = Evaluation([problem([RIGHT], problem_id=name, tokens=40) for name in "ab"], seed=0)
    samples = Evaluation(
        [
            problem([RIGHT, WRONG], problem_id="a", tokens=10),
            problem([WRONG, WRONG], problem_id="b", tokens=10),
        ],
        seed=0,
    )
    found = at_equal_tokens(
        search, samples, ["a", "b"], methods=(Method.BEST, Method.MAJORITY), num_trees=1, seed=0
    )
    assert (found.search.tokens, found.baseline.tokens, found.baseline.num_trees) == (40, 30, 2)
    assert found.search.accuracy == 1
    assert found.baseline.accuracy == 0.25  # of a, one vote each: half; of b none
    assert found.difference.difference == 0.75
    assert not found.exhausted
    rich = Evaluation([problem([RIGHT], problem_id=name, tokens=45) for name in "ab"], seed=0)
    assert at_equal_tokens(
        rich, samples, ["a", "b"], methods=(Method.BEST, Method.PASS), num_trees=1, seed=0
    ).exhausted


@given(trees=some.trees(), tokens=st.integers(1, 9))
def test_a_method_compared_with_itself_makes_no_difference(trees: list[list[Answer]], tokens: int) -> None:
    evaluation = Evaluation([problem(trees, tokens=tokens)], seed=0)
    same = at_equal_tokens(
        evaluation, evaluation, ["p"], methods=(Method.BEST, Method.BEST), num_trees=len(trees), seed=0
    )
    assert same.difference.difference == 0
    assert same.search == same.baseline


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(ValueError, match="no problem"):
        Evaluation([], seed=0)
    uneven = [problem([RIGHT], problem_id="a"), problem([RIGHT, RIGHT], problem_id="b")]
    with pytest.raises(ValueError, match=r"trees per problem: \[1, 2\]; all must have the same number"):
        Evaluation(uneven, seed=0)
    with pytest.raises(ValueError, match="2 trees asked for; it has 1"):
        Evaluation(uneven[:1], seed=0).outcome("a", Method.PASS, 2)
