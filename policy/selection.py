"""How often a selection is right: the probability over ties, which are broken fairly, and what a right choice would have had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policy.attempts import TreeAttempts
from rstar.selection import TOP_K, UNSCORED, Method, Vote, best, totals, weighed

_OF_BEST = frozenset({Method.MAJORITY_OF_BEST, Method.WEIGHTED_VOTE_OF_BEST, Method.TOP_VOTE_OF_BEST})


@dataclass(frozen=True, slots=True)
class JudgedVote(Vote):
    """A vote of which it is known afterwards whether its answer is right."""

    right: bool


def selected(votes: Sequence[JudgedVote], method: Method, *, top_k: int = TOP_K) -> float:
    """The probability that the selected answer is right: 0 or 1 but for ties, which are broken fairly. 0 without votes."""
    counted = weighed(votes, method, top_k=top_k)
    match method:
        case Method.PASS:
            return float(any(vote.right for vote in votes))
        case Method.BEST:
            return _share_right([vote for vote, _ in counted])
        case _:
            return _elected(counted)


def _elected(weights: Sequence[tuple[JudgedVote, float]]) -> float:
    """The share that is right of the answers in the class of the largest weight; of all such classes in equal parts."""
    by_class = totals(weights)
    most = max(by_class.values(), default=0.0)
    winners = [
        _share_right([vote for vote, _ in weights if vote.answer_class == answer_class])
        for answer_class, total in by_class.items()
        if total == most
    ]
    return math.fsum(winners) / len(winners) if winners else 0.0


def _share_right(votes: Sequence[JudgedVote]) -> float:
    """Within a class the share is 0 or 1, unless the grader holds equal answers apart from the reference."""
    if not votes:
        return 0.0
    right = math.fsum(vote.count for vote in votes if vote.right)
    return right / math.fsum(vote.count for vote in votes)


def votes_of(tree: TreeAttempts, method: Method, *, where: str = "") -> list[JudgedVote]:
    """What a tree brings to the selection: all its trajectories, or its best one (equally good ones in parts).

    Raises ValueError, naming `where`, for an answer without score if the method needs one.
    """
    if method not in UNSCORED and any(answer.score is None for answer in tree.answers):
        raise ValueError(f"{where}: an answer without score; {method} needs a value model's")
    votes = [
        JudgedVote(answer.answer_class or 0, answer.multiplicity, answer.score or 0.0, answer.verified)
        for answer in tree.answers
    ]
    if method not in _OF_BEST or not votes:
        return votes
    return [
        JudgedVote(vote.answer_class, place, vote.score, vote.right)
        for vote, place in best(votes, 1.0)
    ]  # fmt: skip
