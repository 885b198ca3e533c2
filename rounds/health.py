"""What a round's trees say about its search: coverage, depth, branching, dead ends. Pure functions of stored trees."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rstar.tree import ROOT, TerminalReason, Tree


@dataclasses.dataclass(slots=True)
class LevelCoverage:
    """Problems of one level, and how many have at least one verified answer."""

    problems: int = 0
    solved: int = 0


@dataclasses.dataclass(slots=True)
class SearchHealth:
    """Sums over trees; keys of counters are texts, so that it can be stored as JSON."""

    coverage: dict[str, LevelCoverage] = dataclasses.field(default_factory=dict)
    trees: int = 0
    exhausted: int = 0
    rollouts: int = 0
    nodes: int = 0
    tokens: int = 0
    executions: int = 0
    expansions: int = 0
    merged: int = 0
    """Candidates that were equal to a sibling."""
    verdicts: Counter[str] = dataclasses.field(default_factory=Counter)
    """Distinct executed steps by how their program ended."""
    terminals: Counter[str] = dataclasses.field(default_factory=Counter)
    depths: Counter[int] = dataclasses.field(default_factory=Counter)
    """Depth of answers."""
    branching: Counter[int] = dataclasses.field(default_factory=Counter)
    """Live children of expanded nodes."""
    solved_at: Counter[int] = dataclasses.field(default_factory=Counter)
    """Solved trees by the rollout, from 1, that first found a verified answer."""
    solved_later: int = 0
    """Problems that a further tree solved, not the first."""
    answers_right: int = 0
    answers_wrong: int = 0

    def summary(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "coverage": {level: dataclasses.asdict(c) for level, c in sorted(self.coverage.items())},
            **{
                name: getattr(self, name)
                for name in ("trees", "exhausted", "rollouts", "nodes", "tokens", "executions", "expansions", "merged",
                             "solved_later", "answers_right", "answers_wrong")
            },
            **{
                name: {str(key): count for key, count in sorted(getattr(self, name).items())}
                for name in ("verdicts", "terminals", "depths", "branching", "solved_at")
            },
        }  # fmt: skip


def coverage(summary: Mapping[str, Any]) -> float:
    """Share of all problems that are solved, in [0, 1], from the summary of a search."""
    levels: list[dict[str, int]] = list(summary["coverage"].values())
    return sum(level["solved"] for level in levels) / max(1, sum(level["problems"] for level in levels))


def search_health(trees: Iterable[Tree], levels: Mapping[str, str]) -> SearchHealth:
    """Look at every tree once. `levels` gives the level of each problem id; several trees of a problem count as one
    problem, solved if one of them is."""
    health = SearchHealth()
    solved: dict[str, set[int]] = {}
    for tree in trees:
        solved.setdefault(tree.problem_id, set()).update({tree.tree_index} if tree.solved else ())
        if tree.solved:
            health.solved_at[1 + min(node.rollout for node in tree.nodes if node.verified)] += 1
        health.trees += 1
        health.exhausted += tree.exhausted
        health.rollouts += tree.num_rollouts
        health.tokens += tree.num_tokens
        health.executions += tree.num_executions
        health.nodes += len(tree.nodes) - 1
        for node_id, node in enumerate(tree.nodes):
            if node_id != ROOT:
                health.merged += node.multiplicity - 1
                if node.kind is not None and node.answer is None:
                    health.verdicts[str(node.execution)] += 1
            if node.children:
                health.expansions += 1
                health.branching[len(tree.live_children(node_id))] += 1
            if node.terminal is not None:
                health.terminals[str(node.terminal)] += 1
            if node.terminal is TerminalReason.ANSWERED:
                health.depths[node.depth] += 1
                health.answers_right += bool(node.verified)
                health.answers_wrong += not node.verified
    for problem_id, by_trees in solved.items():
        level = health.coverage.setdefault(levels.get(problem_id, ""), LevelCoverage())
        level.problems += 1
        level.solved += bool(by_trees)
        health.solved_later += bool(by_trees) and 0 not in by_trees
    return health
