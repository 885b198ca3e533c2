"""From the answers that were found to one of them: best-of-N, majority, weighted votes.

Whoever selects sees answers, their classes and their scores, never whether they are right. The ways to select are
rStar-Math's (section 4 and its released code).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TypeVar

TOP_K = 4
"""Best-scored candidates that vote under TOP_VOTE; the paper's README has 4 to 8."""


class Method(StrEnum):
    """How one answer comes out of the trajectories of k trees (or k samples, which have one trajectory at most)."""

    PASS = "pass"
    """Not a selection but its limit: any answer is right. At k = 1 over samples it is pass@1."""
    MAJORITY = "majority"
    """The answer that most candidates gave."""
    BEST = "best"
    """The answer of the best-scored trajectory."""
    WEIGHTED_VOTE = "weighted_vote"
    """The answer with the largest sum of (1 + score) / 2 over the candidates that gave it [ours: a vote is never negative]."""
    TOP_VOTE = "top_vote"
    """The majority among the K best-scored candidates."""
    MAJORITY_OF_BEST = "majority_of_best"
    """The majority where each tree has one vote: its best-scored trajectory."""
    WEIGHTED_VOTE_OF_BEST = "weighted_vote_of_best"
    """The weighted vote of the trees' best-scored trajectories."""
    TOP_VOTE_OF_BEST = "top_vote_of_best"
    """The majority among the K best-scored of the trees' best-scored trajectories."""


UNSCORED = frozenset({Method.PASS, Method.MAJORITY})
"""The methods that need no value model."""
SELECTING = (Method.MAJORITY, Method.BEST, Method.WEIGHTED_VOTE, Method.TOP_VOTE)
"""The methods that select among the trajectories of one tree."""


@dataclass(frozen=True, slots=True)
class Vote:
    """`count` candidates with one answer. They are fractions where equally good ones share a place."""

    answer_class: int
    count: float
    score: float


V = TypeVar("V", bound=Vote)


@dataclass(frozen=True, slots=True)
class Support:
    """A class of equal answers, and its share of the weight of all votes that count, in [0, 1]."""

    answer_class: int
    share: float


def weighed(votes: Sequence[V], method: Method, *, top_k: int = TOP_K) -> list[tuple[V, float]]:
    """The votes that count under a method, each with its weight."""
    match method:
        case Method.PASS | Method.MAJORITY | Method.MAJORITY_OF_BEST:
            return [(vote, vote.count) for vote in votes]
        case Method.WEIGHTED_VOTE | Method.WEIGHTED_VOTE_OF_BEST:
            return [(vote, vote.count * (1 + vote.score) / 2) for vote in votes]
        case Method.TOP_VOTE | Method.TOP_VOTE_OF_BEST:
            return list(best(votes, top_k))
        case Method.BEST:
            highest = max((vote.score for vote in votes), default=0.0)
            return [(vote, vote.count) for vote in votes if vote.score == highest]


def totals(weights: Sequence[tuple[V, float]]) -> dict[int, float]:
    """The weight of each class, in the order of their first votes."""
    parts: dict[int, list[float]] = {}
    for vote, weight in weights:
        parts.setdefault(vote.answer_class, []).append(weight)
    return {answer_class: math.fsum(weights) for answer_class, weights in parts.items()}


def ranking(votes: Sequence[Vote], method: Method, *, top_k: int = TOP_K) -> list[Support]:
    """The classes that have a vote that counts, the selected one first; of equal ones that which was found first."""
    by_class = totals(weighed(votes, method, top_k=top_k))
    everything = math.fsum(by_class.values())
    shares = (
        Support(answer_class, weight / everything if everything else 1 / len(by_class))
        for answer_class, weight in by_class.items()
    )
    return sorted(shares, key=lambda support: -support.share)


def best(votes: Sequence[V], places: float) -> Iterator[tuple[V, float]]:
    """The best-scored candidates, each with the part of a place it has; those equal at the last place share it."""
    ranked = sorted(votes, key=lambda vote: -vote.score)
    for _, group in groupby(ranked, key=lambda vote: vote.score):
        equal = list(group)
        candidates = math.fsum(vote.count for vote in equal)
        share = min(1.0, places / candidates)
        yield from ((vote, vote.count * share) for vote in equal)
        places -= candidates
        if places <= 0:
            return
