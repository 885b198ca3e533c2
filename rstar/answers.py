"""What comes of a question: the answer and all that speaks for it. Plain data; no reference answer has a place here."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rstar.exports import to_json
from rstar.selection import Method, Vote, ranking
from rstar.strategies import Strategy
from rstar.trajectories import Trajectory, trajectories
from rstar.tree import TerminalReason, Tree


class StopReason(StrEnum):
    """Why a search ended."""

    ROLLOUTS = "rollouts"
    """It did all that it was asked for."""
    TOKENS = "tokens"
    """The token budget was spent."""
    SECONDS = "seconds"
    """The deadline was reached; the answer is the best one known by then."""
    CONVERGED = "converged"
    """The vote was as good as decided."""
    EXHAUSTED = "exhausted"
    """Nothing was left to try."""
    INTERRUPTED = "interrupted"
    """Whoever asked stopped it; the answer is the best one known by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an answer took. Tokens are sampled ones, duplicates and failures included; `prompt_tokens` are those of the
    question with its prompt, once."""

    tokens: int
    prompt_tokens: int
    executions: int
    rollouts: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One class of equal answers, as it was written first."""

    answer: str
    support: float
    """Its share of the vote, in [0, 1]."""
    num_candidates: int
    """How many sampled answers were equal to it."""
    score: float | None
    """The preference model's best score of a trajectory to it, in [-1, 1]; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of one question.

    `answer` is None if the search abstains, and `reason` says why. `confidence` is the share of the vote that the answer
    got, in [0, 1]; it is a vote among samples, not a calibrated probability. `trajectory` is the answer's best solution,
    code and output included; `alternatives` are all classes of answers, the selected one first.
    """

    question: str
    answer: str | None
    confidence: float
    reason: str
    stopped_by: StopReason
    trajectory: Trajectory | None
    alternatives: tuple[Alternative, ...]
    cost: Cost
    strategy: Strategy
    seed: int
    tree: Tree

    def plain(self, *, with_tree: bool = False) -> dict[str, Any]:
        """As JSON takes it."""
        cost = self.cost
        return {
            "question": self.question,
            "answer": self.answer,
            "confidence": self.confidence,
            "reason": self.reason,
            "stopped_by": str(self.stopped_by),
            "solution": self.trajectory.text if self.trajectory else None,
            "alternatives": [
                {"answer": one.answer, "support": one.support, "num_candidates": one.num_candidates, "score": one.score}
                for one in self.alternatives
            ],
            "cost": {
                "tokens": cost.tokens, "prompt_tokens": cost.prompt_tokens, "executions": cost.executions,
                "rollouts": cost.rollouts, "seconds": cost.seconds,
            },
            "strategy": str(self.strategy),
            "seed": self.seed,
            **({"tree": json.loads(to_json(self.tree))} if with_tree else {}),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsFound:
    """A node was expanded: `node_ids` of `tree` are new, failed ones among them."""

    tree: Tree
    parent: int
    node_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The search is over."""

    answer: Answer


Event = StepsFound | Finished
"""What a running search tells, in this order: steps as they are found, and at the end the answer."""


def answered(tree: Tree) -> list[int]:
    """The nodes with an answer, in the order in which they were found."""
    return [node_id for node_id, node in enumerate(tree.nodes) if node.terminal is TerminalReason.ANSWERED]


def votes(tree: Tree, node_ids: Sequence[int], classes: Sequence[int]) -> list[Vote]:
    """A vote for each answer, given the class of each."""
    nodes = [tree.nodes[node_id] for node_id in node_ids]
    return [
        Vote(answer_class, node.multiplicity, node.initial_value or 0.0)
        for node, answer_class in zip(nodes, classes, strict=True)
    ]


def conclude(
    tree: Tree,
    classes: Sequence[int],
    *,
    method: Method,
    strategy: Strategy,
    stopped_by: StopReason,
    seconds: float,
    prompt_tokens: int,
) -> Answer:
    """Select an answer; `classes` has the class of each answered node, equal answers sharing one."""
    node_ids = answered(tree)
    ranked = ranking(votes(tree, node_ids, classes), method)
    of_class: dict[int, list[int]] = {}
    for node_id, answer_class in zip(node_ids, classes, strict=True):
        of_class.setdefault(answer_class, []).append(node_id)
    supported = {support.answer_class: support.share for support in ranked}
    order = [*supported, *(answer_class for answer_class in of_class if answer_class not in supported)]
    alternatives = tuple(
        _alternative(tree, of_class[answer_class], supported.get(answer_class, 0.0)) for answer_class in order
    )
    trajectory = None
    if order:
        paths = {path.node_ids[-1]: path for path in trajectories(tree)}
        winners = of_class[order[0]]
        trajectory = paths[max(winners, key=lambda node_id: _merit(tree, node_id))]
    return Answer(
        question=tree.question,
        answer=alternatives[0].answer if alternatives else None,
        confidence=alternatives[0].support if alternatives else 0.0,
        reason="" if alternatives else why_none(tree),
        stopped_by=stopped_by,
        trajectory=trajectory,
        alternatives=alternatives,
        cost=Cost(
            tokens=tree.num_tokens,
            prompt_tokens=prompt_tokens,
            executions=tree.num_executions,
            rollouts=tree.num_rollouts,
            seconds=seconds,
        ),
        strategy=strategy,
        seed=tree.seed,
        tree=tree,
    )


def _alternative(tree: Tree, node_ids: Sequence[int], support: float) -> Alternative:
    nodes = [tree.nodes[node_id] for node_id in node_ids]
    scores = [node.initial_value for node in nodes if node.initial_value is not None]
    return Alternative(
        answer=nodes[0].answer or "",
        support=support,
        num_candidates=sum(node.multiplicity for node in nodes),
        score=max(scores, default=None),
    )


def _merit(tree: Tree, node_id: int) -> tuple[float, float]:
    """Of trajectories to one answer, the one to show: best-scored, then likeliest."""
    node = tree.nodes[node_id]
    path = [tree.nodes[step] for step in tree.path(node_id)]
    tokens = sum(len(step.token_ids) for step in path)
    likely = math.fsum(step.mean_logprob * len(step.token_ids) for step in path) / max(1, tokens)
    return node.initial_value if node.initial_value is not None else node.q_value, likely


def why_none(tree: Tree) -> str:
    """Why a tree has no answer, in one line."""
    if len(tree.nodes) == 1:
        return "the search ended before its first step was found"
    failed = Counter(node.error.partition(":")[0] for node in tree.nodes[1:] if not node.live)
    reasons = tree.terminal_reasons()
    if not any(node.live for node in tree.nodes[1:]):
        error, times = failed.most_common(1)[0]
        return f"no step ran: {failed.total()} were tried, most often with {error} ({times} times)"
    if reasons:
        reason, times = reasons.most_common(1)[0]
        return f"no trajectory came to an answer; most ended with {str(reason).replace('_', ' ')} ({times} times)"
    return "no trajectory came to an answer before the search ended"


def decided(counts: Sequence[float], certainty: float) -> bool:
    """Is the leading answer, with probability at least `certainty`, the more frequent one of the two most frequent?

    With a uniform prior, the chance that its share of the votes for the two is above one half (Aggarwal et al.,
    "Let's sample step by step", arXiv:2305.11860, Beta criterion). `counts` are candidates per class; [0, 1] certainty.
    """
    ordered = sorted((round(count) for count in counts), reverse=True)
    if not ordered:
        return False
    first, second = ordered[0], ordered[1] if len(ordered) > 1 else 0
    # P(p > 1/2) for p ~ Beta(first + 1, second + 1), as a binomial tail: all arguments are whole numbers.
    n = first + second + 1
    chance: float = sum(math.comb(n, k) for k in range(first + 1)) / 2.0**n
    return chance >= certainty
