"""How good an answer is for the tokens that it cost: accuracy with k trees per problem, curves, equal token budgets.

Pure functions of attempts (`attempts`) and of how an answer is selected (`selection`), for samples and searches alike,
because a sample is a tree of one path. Definitions are in docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from policy.attempts import ProblemAttempts
from policy.selection import selected, votes_of
from policy.statistics import ALL_LEVELS, Interval, PairedDifference, mean_interval, paired_difference
from rstar.seeds import derive, rng
from rstar.selection import TOP_K, Method

NUM_SUBSETS = 50
"""Random subsets of a problem's trees over which an outcome is averaged, where there are more."""
NUM_RESAMPLES = 2000
"""Of the bootstrap."""


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the probability that k of n samples, c of them right, hold a right one. The unbiased
    estimate of pass@k (Chen et al., arXiv:2107.03374, equation 1). Raises ValueError unless 0 <= c <= n, 1 <= k <= n."""
    if not (0 <= num_right <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_right} of them right, is not defined")
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A method with `num_trees` trees (or samples) per problem."""

    num_trees: int
    tokens: float
    """Mean per problem."""
    accuracy: float
    """Mean over problems of the probability of a right answer."""
    interval: Interval
    """Bootstrap over problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A search, a baseline with as many samples as its tokens pay for, and the accuracy of the search minus that of the
    baseline on the same problems."""

    search: Point
    baseline: Point
    difference: PairedDifference
    exhausted: bool
    """The tokens would pay for more samples than there are: the baseline spends less than the search."""


class Evaluation:
    """Attempts at a set of problems, and what each method makes of k trees per problem, for any k up to all."""

    def __init__(
        self,
        problems: Sequence[ProblemAttempts],
        *,
        seed: int,
        top_k: int = TOP_K,
        num_subsets: int = NUM_SUBSETS,
    ) -> None:
        """Raises ValueError for no problem, or problems with different numbers of trees."""
        numbers = {len(problem.trees) for problem in problems}
        if len(numbers) != 1:
            raise ValueError(
                f"trees per problem: {sorted(numbers) or 'no problem'}; all must have the same number"
            )
        self.problems = {problem.problem_id: problem for problem in problems}
        (self.num_trees,) = numbers
        self._seed, self._top_k, self._num_subsets = seed, top_k, num_subsets
        self._known: dict[tuple[str, Method, int], float] = {}

    def levels(self, order: Sequence[str] = ()) -> dict[str, list[str]]:
        """Problem ids by level: `order` first, then other levels by name, and `ALL_LEVELS` last."""
        found = {problem.level for problem in self.problems.values()}
        names = [level for level in order if level in found] + sorted(found - set(order))
        ids = {
            level: [p.problem_id for p in self.problems.values() if p.level == level]
            for level in names
        }  # fmt: skip
        return {**ids, ALL_LEVELS: list(self.problems)}

    def outcome(self, problem_id: str, method: Method, num_trees: int) -> float:
        """The probability of a right answer to one problem from `num_trees` of its trees, on average over which ones:
        over all subsets if there are at most `num_subsets`, else over so many random ones. PASS is exact."""
        key = (problem_id, method, num_trees)
        if key not in self._known:
            self._known[key] = self._outcome(self.problems[problem_id], method, num_trees)
        return self._known[key]

    def _outcome(self, problem: ProblemAttempts, method: Method, k: int) -> float:
        where = f"problem {problem.problem_id}"
        if not 1 <= k <= len(problem.trees):
            raise ValueError(f"{where}: {k} trees asked for; it has {len(problem.trees)}")
        votes = [votes_of(tree, method, where=where) for tree in problem.trees]
        if method is Method.PASS:
            return pass_at_k(len(votes), sum(any(vote.right for vote in tree) for tree in votes), k)
        rights = {vote.right for tree in votes for vote in tree}
        if True not in rights:
            return 0.0
        if rights == {True} and all(votes):
            return 1.0
        results = [
            selected([vote for index in subset for vote in votes[index]], method, top_k=self._top_k)
            for subset in self._subsets(problem.problem_id, len(votes), k)
        ]
        return math.fsum(results) / len(results)

    def _subsets(self, problem_id: str, n: int, k: int) -> list[tuple[int, ...]]:
        """The same for every method, so that methods are compared on the same draws."""
        if math.comb(n, k) <= self._num_subsets:
            return list(combinations(range(n), k))
        chance = rng(self._seed, "subsets", problem_id, k)
        return [tuple(chance.sample(range(n), k)) for _ in range(self._num_subsets)]

    def tokens(self, problem_ids: Iterable[str], num_trees: int) -> float:
        """Mean tokens per problem of `num_trees` trees, on average over which ones."""
        each = [
            math.fsum(tree.tokens for tree in self.problems[problem_id].trees) / self.num_trees
            for problem_id in problem_ids
        ]
        return num_trees * math.fsum(each) / len(each)

    def point(self, problem_ids: Sequence[str], method: Method, num_trees: int) -> Point:
        """Accuracy and cost on these problems."""
        outcomes = [self.outcome(problem_id, method, num_trees) for problem_id in problem_ids]
        return Point(
            num_trees=num_trees,
            tokens=self.tokens(problem_ids, num_trees),
            accuracy=math.fsum(outcomes) / len(outcomes),
            interval=mean_interval(
                outcomes, seed=derive(self._seed, "interval"), num_resamples=NUM_RESAMPLES
            ),
        )

    def curve(self, problem_ids: Sequence[str], method: Method) -> list[Point]:
        """Points at 1, 2, 4, … trees, and at all."""
        return [self.point(problem_ids, method, k) for k in doublings(self.num_trees)]

    def num_fitting(self, problem_ids: Sequence[str], budget: float) -> int:
        """How many trees `budget` tokens per problem pay for, in the mean over these problems; at least 1, at most all."""
        cost = max(1.0, self.tokens(problem_ids, 1))
        return min(self.num_trees, max(1, math.floor(budget / cost + 1e-9)))


def doublings(last: int) -> list[int]:
    """1, 2, 4, … and `last`."""
    return [2**i for i in range(last.bit_length()) if 2**i < last] + [last]


def at_equal_tokens(
    search: Evaluation,
    baseline: Evaluation,
    problem_ids: Sequence[str],
    *,
    methods: tuple[Method, Method],
    num_trees: int,
    seed: int,
) -> Comparison:
    """Compare `num_trees` searches with as many samples as their tokens pay for, `methods` being the search's and the
    baseline's. Equal are the mean tokens per problem over `problem_ids`: the baseline spends less, by under one sample
    (where they pay for none it has one nevertheless, and spends more)."""
    budget = search.tokens(problem_ids, num_trees)
    num_samples = baseline.num_fitting(problem_ids, budget)
    outcomes = [
        [evaluation.outcome(problem_id, method, k) for problem_id in problem_ids]
        for evaluation, method, k in (
            (baseline, methods[1], num_samples),
            (search, methods[0], num_trees),
        )
    ]
    return Comparison(
        search=search.point(problem_ids, methods[0], num_trees),
        baseline=baseline.point(problem_ids, methods[1], num_samples),
        difference=paired_difference(*outcomes, seed=seed, num_resamples=NUM_RESAMPLES),
        exhausted=budget >= baseline.tokens(problem_ids, baseline.num_trees + 1),
    )


def accuracy_table(
    evaluation: Evaluation, methods: Iterable[Method], num_trees: int, *, levels: Sequence[str] = ()
) -> Mapping[str, Mapping[Method, Point]]:
    """Level to method to point."""
    methods = list(methods)
    return {
        level: {method: evaluation.point(ids, method, num_trees) for method in methods}
        for level, ids in evaluation.levels(levels).items()
    }
