"""The search once more, written so that it is obviously right: nothing is kept up to date, everything is counted anew
from the list of what happened.

`replay` walks through a finished tree in the order in which it grew and asks of each choice whether the formulas allowed
it, and of each number whether it adds up. It shares no code with the search and holds for one rollout in flight at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from unittest import mock

from rstar import mcts
from rstar.config import SearchConfig, Selection
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree, check_invariants

TerminalValue = Callable[[Node], float]


def value_by_truth(node: Node) -> float:
    """+1 for a verified answer, -1 for everything else that ends."""
    return 1.0 if node.verified else -1.0


def value_by_score(node: Node) -> float:
    """The value model's score for an answer, -1 for everything else that ends."""
    answered = node.terminal is TerminalReason.ANSWERED
    return node.initial_value if answered and node.initial_value is not None else -1.0


@dataclass
class _Replay:
    tree: Tree
    config: SearchConfig
    terminal_value: TerminalValue
    expanded: set[int] = field(default_factory=set)
    first_visits: list[tuple[int, float]] = field(default_factory=list)
    """Scores of the value model: they count at their node only."""
    endings: list[tuple[int, float]] = field(default_factory=list)
    """Terminal values: they count at their node and at every node above."""

    def visit_count(self, node_id: int) -> int:
        return len(self._values(node_id))

    def value_sum(self, node_id: int) -> float:
        return sum(self._values(node_id))

    def _values(self, node_id: int) -> list[float]:
        own = [value for at, value in self.first_visits if at == node_id]
        return own + [value for at, value in self.endings if node_id in self._line(at)]

    def _line(self, node_id: int) -> list[int]:
        """The node and all its ancestors."""
        return [] if node_id == NO_PARENT else [node_id, *self._line(self.tree.nodes[node_id].parent)]

    def ended(self, node_id: int) -> bool:
        return any(at == node_id for at, _ in self.endings)

    def closed(self, node_id: int) -> bool:
        if self.ended(node_id):
            return True
        return node_id in self.expanded and all(self.closed(child) for child in self._live_children(node_id))

    def _live_children(self, node_id: int) -> list[int]:
        if node_id not in self.expanded:
            return []
        children = [child for child, node in enumerate(self.tree.nodes) if node.parent == node_id]
        return [child for child in children if self.tree.nodes[child].execution == "ok"]

    def best_children(self, node_id: int) -> list[int]:
        """Every open child that no other open child beats."""
        scores = {
            child: self._score(child) for child in self._live_children(node_id) if not self.closed(child)
        }
        return [child for child, score in scores.items() if score >= max(scores.values()) - 1e-9]

    def _score(self, child: int) -> float:
        n, w = self.visit_count(child), self.value_sum(child)
        parent_n = max(1, self.visit_count(self.tree.nodes[child].parent))
        q = w / n if n else 0.0
        if self.config.selection == Selection.PUCT:
            prior = math.exp(self.tree.nodes[child].mean_logprob)
            return q + self.config.c_puct * prior * parent_n**0.5 / (1 + n)
        return q + self.config.c_uct * (math.log(parent_n) / n) ** 0.5 if n else self.config.unvisited_score

    def walk(self, start: int, target: int) -> None:
        """Every step down from `start` to `target` was a best choice, and `target` was open."""
        line = self._line(target)[::-1]
        path = line[line.index(start) :]
        for node_id, chosen in pairwise(path):
            assert chosen in self.best_children(node_id), f"{chosen} was not the best choice at {node_id}"
        assert target not in self.expanded
        assert not self.ended(target)

    def expand(self, parent: int) -> None:
        self.expanded.add(parent)
        for child, node in enumerate(self.tree.nodes):
            if node.parent != parent:
                continue
            if node.execution != "ok":
                assert node.terminal is None
            elif node.terminal not in (None, TerminalReason.CODE_ERRORS):
                self.endings.append((child, self.terminal_value(node)))
            elif node.initial_value is not None:
                self.first_visits.append((child, node.initial_value))
        if not self._live_children(parent):
            assert self.tree.nodes[parent].terminal is TerminalReason.CODE_ERRORS
            self.endings.append((parent, -1.0))


def replay(tree: Tree, config: SearchConfig, terminal_value: TerminalValue = value_by_truth) -> None:
    """Raise AssertionError unless a naive search could have grown exactly this tree."""
    naive = _Replay(tree, config, terminal_value)
    expansions = [parent for parent, _ in groupby(node.parent for node in tree.nodes[1:])]
    assert len(set(expansions)) == len(expansions), "an expansion's children are added together"
    rollout_of = {node.parent: node.rollout for node in tree.nodes[1:]}
    assert all(node.rollout == rollout_of[node.parent] for node in tree.nodes[1:])
    rollouts = [list(chain) for _, chain in groupby(expansions, key=lambda parent: rollout_of[parent])]
    for chain in rollouts:
        start = ROOT
        for parent in chain:
            naive.walk(start, parent)
            naive.expand(parent)
            start = parent  # a rollout goes on below what it expanded
        assert naive.best_children(chain[-1]) == [], "a rollout stops only where its path ends"
    assert tree.num_rollouts == len(rollouts)
    for node_id, node in enumerate(tree.nodes):
        assert node.visit_count == naive.visit_count(node_id)
        assert abs(node.value_sum - naive.value_sum(node_id)) < 1e-9
        assert node.closed == naive.closed(node_id)


@contextlib.contextmanager
def invariants_after_every_expansion(most_in_flight: int = 1) -> Iterator[None]:
    """Within this, `check_invariants` holds after each expansion and its backups, rollouts in flight aside."""

    def checked(tree: Tree, parent_id: int, candidates: Sequence[mcts.Evaluated]) -> list[int]:
        children = expand(tree, parent_id, candidates)
        assert all(0 <= node.in_flight <= most_in_flight for node in tree.nodes)
        at_rest = [dataclasses.replace(node, in_flight=0) for node in tree.nodes]
        check_invariants(dataclasses.replace(tree, nodes=at_rest))
        return children

    expand = mcts.expand
    with mock.patch.object(mcts, "expand", checked):
        yield
