"""Selections against naive ones that write every candidate out, against hand-worked cases, and under reordering."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.selection import JudgedVote, selected, votes_of
from rstar.selection import UNSCORED, Method
from tests.policy import attempts as some
from tests.policy.attempts import Answer, problem


def naive(candidates: list[tuple[str, float]], method: Method, top_k: int) -> Fraction:
    """`candidates` in a given order, each once; what comes first wins a tie. Averaged over orders by the caller."""
    if not candidates:
        return Fraction(0)
    match method:
        case Method.PASS:
            return Fraction(any(answer == "R" for answer, _ in candidates))
        case Method.BEST:
            return Fraction(max(candidates, key=lambda c: c[1])[0] == "R")
        case Method.TOP_VOTE:
            candidates = sorted(candidates, key=lambda c: -c[1])[:top_k]
    weights: Counter[str] = Counter()
    for answer, score in candidates:
        weight = Fraction(score) + 1 if method is Method.WEIGHTED_VOTE else Fraction(1)
        weights[answer] += weight  # type: ignore[assignment]
    most = max(weights.values())
    winners = [answer for answer in weights if weights[answer] == most]
    return Fraction("R" in winners, len(winners))


def votes(answers: list[Answer]) -> list[JudgedVote]:
    (tree,) = problem([answers]).trees
    return votes_of(tree, Method.BEST)


@given(answers=st.lists(some.answers(2), max_size=3), top_k=st.integers(1, 4))
@pytest.mark.parametrize("method", [Method.PASS, Method.MAJORITY, Method.BEST, Method.WEIGHTED_VOTE])
def test_a_selection_is_the_naive_one_averaged_over_all_orders(
    answers: list[Answer], top_k: int, method: Method
) -> None:
    written_out = [(a[0], float(a[1] or 0)) for a in answers for _ in range(a[2] if len(a) == 3 else 1)]
    results = [naive(list(order), method, top_k) for order in permutations(written_out)]
    assert selected(votes(answers), method, top_k=top_k) == pytest.approx(float(sum(results) / len(results)))


@given(
    answers=st.lists(some.answers(), max_size=6, unique_by=lambda answer: answer[1]), top_k=st.integers(1, 9)
)
def test_the_top_vote_is_the_naive_one_where_no_scores_are_equal(answers: list[Answer], top_k: int) -> None:
    written_out = [(a[0], float(a[1] or 0)) for a in answers for _ in range(a[2] if len(a) == 3 else 1)]
    expected = naive(written_out, Method.TOP_VOTE, top_k)
    assert selected(votes(answers), Method.TOP_VOTE, top_k=top_k) == pytest.approx(float(expected))


@given(answers=st.lists(some.answers(), max_size=8), seed=st.integers(0, 99))
@pytest.mark.parametrize("method", Method)
def test_the_order_of_answers_means_nothing_and_no_method_beats_a_right_choice(
    answers: list[Answer], seed: int, method: Method
) -> None:
    given_votes = votes(answers)
    shuffled = random.Random(seed).sample(given_votes, len(given_votes))
    result = selected(given_votes, method)
    assert selected(shuffled, method) == result
    assert 0 <= result <= selected(given_votes, Method.PASS)


@given(answers=st.lists(some.answers(), max_size=8))
def test_a_vote_of_all_the_top_is_the_majority_and_of_one_the_best(answers: list[Answer]) -> None:
    given_votes = votes(answers)
    assert selected(given_votes, Method.TOP_VOTE, top_k=99) == selected(given_votes, Method.MAJORITY)
    scores = [vote.score for vote in given_votes]
    if scores.count(max(scores, default=0.0)) == 1:
        assert selected(given_votes, Method.TOP_VOTE, top_k=1) == selected(given_votes, Method.BEST)


def test_methods_by_hand_where_each_selects_another_answer() -> None:
    answers: list[Answer] = [("A", 0.9), ("R", 0.8), ("R", 0.7), ("B", -0.5, 4)]
    expected = {
        Method.PASS: 1,  # "R" is there
        Method.MAJORITY: 0,  # B has 4 of 7
        Method.BEST: 0,  # A
        Method.WEIGHTED_VOTE: 1,  # R 0.9 + 0.85; A 0.95; B 4 * 0.25
        Method.TOP_VOTE: 1,  # A, R, R and one B
    }
    for method, right in expected.items():
        assert selected(votes(answers), method) == right, method
    assert selected(votes(answers), Method.TOP_VOTE, top_k=7) == 0


def test_ties_are_broken_in_equal_parts() -> None:
    assert selected(votes([("A", 0.0), ("R", 0.0), ("B", 0.0, 2)]), Method.BEST) == 0.25
    assert selected(votes([("A", 0.1), ("R", 0.1)]), Method.MAJORITY) == 0.5
    assert selected(votes([("A", -1.0), ("R", -1.0), ("B", -1.0)]), Method.WEIGHTED_VOTE) == pytest.approx(1 / 3)  # fmt: skip
    # Two places: one for the best, the other shared by three. A then has 1 and R 2/3.
    assert selected(votes([("A", 0.5), ("R", 0.0, 2), ("B", 0.0)]), Method.TOP_VOTE, top_k=2) == 0


@given(answers=st.lists(some.answers(), max_size=6))
@pytest.mark.parametrize(
    "method", [Method.MAJORITY_OF_BEST, Method.WEIGHTED_VOTE_OF_BEST, Method.TOP_VOTE_OF_BEST]
)
def test_of_one_tree_the_vote_of_the_best_is_one_vote(answers: list[Answer], method: Method) -> None:
    (tree,) = problem([answers]).trees
    found = votes_of(tree, method)
    assert sum(vote.count for vote in found) == pytest.approx(int(bool(answers)))
    best = max((float(a[1] or 0) for a in answers), default=0.0)
    assert all(vote.score == best for vote in found)


def test_trees_vote_by_their_best_trajectories() -> None:
    first, second, third = problem([[("R", 0.9), ("A", 0.1, 9)], [("R", 0.5)], [("A", 0.6), ("B", 0.2)]]).trees  # fmt: skip

    def outcome(method: Method) -> float:
        return selected([v for tree in (first, second, third) for v in votes_of(tree, method)], method)

    assert outcome(Method.MAJORITY) == 0  # A has 10 of 13 candidates
    assert outcome(Method.MAJORITY_OF_BEST) == 1  # R, R, A


@pytest.mark.parametrize("method", Method)
def test_an_answer_without_score_is_refused_where_one_is_needed(method: Method) -> None:
    (tree,) = problem([[("R", None)]]).trees
    if method in UNSCORED:
        assert selected(votes_of(tree, method), method) == 1
    else:
        with pytest.raises(ValueError, match=f"problem p: an answer without score; {method} needs"):
            votes_of(tree, method, where="problem p")
