"""From the trajectories of a problem's trees to one answer: best-of-N, votes, and what a right choice would have had.

Whoever selects sees answers, their classes and their scores, never whether they are right. The ways to select are
rStar-Math's (section 4 and its released code); ties are broken fairly, so an outcome is a probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from policy.attempts import TreeAttempts

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


_OF_BEST = {
    Method.MAJORITY_OF_BEST: Method.MAJORITY,
    Method.WEIGHTED_VOTE_OF_BEST: Method.WEIGHTED_VOTE,
    Method.TOP_VOTE_OF_BEST: Method.TOP_VOTE,
}
UNSCORED = frozenset({Method.PASS, Method.MAJORITY})
"""The methods that need no value model."""


@dataclass(frozen=True, slots=True)
class Vote:
    """`count` candidates with one answer. They are fractions where equally good ones share a place."""

    answer_class: int
    count: float
    score: float
    right: bool


def selected(votes: Sequence[Vote], method: Method, *, top_k: int = TOP_K) -> float:
    """The probability that the selected answer is right: 0 or 1 but for ties, which are broken fairly. 0 without votes."""
    match method:
        case Method.PASS:
            return float(any(vote.right for vote in votes))
        case Method.MAJORITY | Method.MAJORITY_OF_BEST:
            return _elected((vote, vote.count) for vote in votes)
        case Method.WEIGHTED_VOTE | Method.WEIGHTED_VOTE_OF_BEST:
            return _elected((vote, vote.count * (1 + vote.score) / 2) for vote in votes)
        case Method.TOP_VOTE | Method.TOP_VOTE_OF_BEST:
            return _elected(_best(votes, top_k))
        case Method.BEST:
            best = max((vote.score for vote in votes), default=0.0)
            return _share_right([vote for vote in votes if vote.score == best])


def _elected(weighted: Iterable[tuple[Vote, float]]) -> float:
    """The share that is right of the answers in the class of the largest weight; of all such classes in equal parts."""
    votes: dict[int, list[Vote]] = {}
    weights: dict[int, list[float]] = {}
    for vote, weight in weighted:
        votes.setdefault(vote.answer_class, []).append(vote)
        weights.setdefault(vote.answer_class, []).append(weight)
    totals = {answer_class: math.fsum(parts) for answer_class, parts in weights.items()}
    most = max(totals.values(), default=0.0)
    winners = [_share_right(votes[answer_class]) for answer_class, total in totals.items() if total == most]
    return math.fsum(winners) / len(winners) if winners else 0.0


def _best(votes: Sequence[Vote], places: float) -> Iterator[tuple[Vote, float]]:
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


def _share_right(votes: Sequence[Vote]) -> float:
    """Within a class the share is 0 or 1, unless the grader holds equal answers apart from the reference."""
    if not votes:
        return 0.0
    right = math.fsum(vote.count for vote in votes if vote.right)
    return right / math.fsum(vote.count for vote in votes)


def votes_of(tree: TreeAttempts, method: Method, *, where: str = "") -> list[Vote]:
    """What a tree brings to the selection: all its trajectories, or its best one (equally good ones in parts).

    Raises ValueError, naming `where`, for an answer without score if the method needs one.
    """
    if method not in UNSCORED and any(answer.score is None for answer in tree.answers):
        raise ValueError(f"{where}: an answer without score; {method} needs a value model's")
    votes = [
        Vote(answer.answer_class or 0, answer.multiplicity, answer.score or 0.0, answer.verified)
        for answer in tree.answers
    ]
    if method not in _OF_BEST or not votes:
        return votes
    return [
        Vote(vote.answer_class, place, vote.score, vote.right)
        for vote, place in _best(votes, 1.0)
    ]  # fmt: skip
