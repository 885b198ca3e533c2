"""The search tree of one question: nodes in one list, integer parents, statistics.

A tree knows what happened, not how to search: `mcts` is the only writer of visit counts and values, `search` the only
caller of models. It holds no reference answer; `verified` marks what a judge said of an answer, if one was asked.

Legend: N = `visit_count`, W = `value_sum`, Q = W / N (rStar-Math, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from rstar.protocols import ExecutionVerdict
from rstar.steps import Step, StepKind

if TYPE_CHECKING:
    import networkx

ROOT = 0
"""Node id of the question itself: depth 0, no step."""
NO_PARENT = -1


class TerminalReason(StrEnum):
    """Why nothing follows a node."""

    ANSWERED = "answered"
    """A final answer, judged."""
    CODE_ERRORS = "code_errors"
    """A dead end: every candidate step after this node failed to run."""
    MAX_DEPTH = "max_depth"
    """Not an answer, and as deep as a tree may be."""
    UNPARSABLE = "unparsable"
    """The completion does not follow the step format."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The completion was cut by a token limit, or leaves no room for a next step."""


@dataclass(slots=True, kw_only=True)
class Node:
    """A step's place in the tree.

    A node is *live* if its code ran (`execution` ok); a failed candidate stays as a marked leaf that selection, values and
    training sets never see. A node is *closed* if no rollout can lead anywhere new below it: it is terminal, or it is
    expanded and all its live children are closed.
    """

    parent: int
    depth: int
    """Edges from the root."""
    text: str = ""
    """The step as the policy sampled it, closing tag included; empty for the root."""
    kind: StepKind | None = None
    """None for the root and for a step that does not parse."""
    token_ids: tuple[int, ...] = ()
    mean_logprob: float = 0.0
    """Mean natural log-probability of the step's tokens under the policy."""
    multiplicity: int = 1
    """How many candidates of the expansion were this step."""
    rollout: int = 0
    """Index of the rollout that added it."""
    execution: ExecutionVerdict = ExecutionVerdict.OK
    stdout: str = ""
    """What this step's code printed (not its ancestors')."""
    error: str = ""
    """Why it failed, or why it does not parse; one line."""
    terminal: TerminalReason | None = None
    answer: str | None = None
    verified: bool | None = None
    initial_value: float | None = None
    """What the value model said of the prefix ending here, in [-1, 1]."""
    visit_count: int = 0
    value_sum: float = 0.0
    children: list[int] = field(default_factory=list)
    closed: bool = False
    in_flight: int = field(default=0, compare=False, repr=False)
    """Rollouts passing through right now (virtual loss); 0 in a tree at rest, never stored."""

    @property
    def live(self) -> bool:
        return self.execution is ExecutionVerdict.OK

    @property
    def scored(self) -> bool:
        """The value model gave this node its first visit, which was not backed up to its parent. (An answer is worth
        one terminal value, whoever gave it; a dead end had its first visit before it turned out to be one.)"""
        return self.initial_value is not None and self.terminal is not TerminalReason.ANSWERED

    @property
    def q_value(self) -> float:
        """W / N in [-1, 1]; 0 for a node never visited."""
        return self.value_sum / self.visit_count if self.visit_count else 0.0


@dataclass(slots=True, kw_only=True)
class Tree:
    """The tree of one question. `tree_index` tells apart several trees of one problem (different seeds)."""

    problem_id: str
    question: str
    seed: int = 0
    tree_index: int = 0
    num_rollouts: int = 0
    """Rollouts finished so far; a reopened tree goes on from here."""
    num_tokens: int = 0
    """Tokens sampled so far, duplicates included."""
    num_executions: int = 0
    """Steps executed so far (equal siblings once)."""
    nodes: list[Node] = field(default_factory=lambda: [Node(parent=NO_PARENT, depth=0)])

    @property
    def name(self) -> str:
        """Names the tree among all trees of a run: the group of its requests."""
        return f"{self.problem_id}#{self.tree_index}"

    @property
    def root(self) -> Node:
        return self.nodes[ROOT]

    @property
    def exhausted(self) -> bool:
        """No rollout can find anything new."""
        return self.root.closed

    @property
    def solved(self) -> bool:
        """Some answer was verified."""
        return any(node.verified for node in self.nodes)

    def live_children(self, node_id: int) -> list[int]:
        return [child for child in self.nodes[node_id].children if self.nodes[child].live]

    def path(self, node_id: int) -> list[int]:
        """Node ids from the root's child down to `node_id`; empty for the root."""
        path = []
        while node_id != ROOT:
            path.append(node_id)
            node_id = self.nodes[node_id].parent
        return path[::-1]

    def steps(self, node_id: int) -> list[Step]:
        """The steps from the root's child down to `node_id`, which must parse."""
        steps = []
        for step_id in self.path(node_id):
            node = self.nodes[step_id]
            assert node.kind is not None, "a step that does not parse has no continuation"
            steps.append(Step(node.kind, node.text))
        return steps

    def program_output(self, node_id: int) -> str:
        """What the whole program printed, from its first step to `node_id`."""
        return "".join(self.nodes[step_id].stdout for step_id in self.path(node_id))

    def terminal_nodes(self) -> Iterator[int]:
        return (node_id for node_id, node in enumerate(self.nodes) if node.terminal is not None)

    def terminal_reasons(self) -> Counter[TerminalReason]:
        return Counter(node.terminal for node in self.nodes if node.terminal is not None)

    def to_networkx(self) -> networkx.DiGraph[int]:
        """The tree as a directed graph for analysis: node ids, edges from parent to child, every field of a node but
        its links as an attribute, plus `q_value`; the tree's own fields as graph attributes. None is left out (GraphML has no null)."""
        import networkx

        graph: networkx.DiGraph[int] = networkx.DiGraph(
            problem_id=self.problem_id, question=self.question, seed=self.seed, tree_index=self.tree_index,
            num_rollouts=self.num_rollouts, num_tokens=self.num_tokens, num_executions=self.num_executions,
        )  # fmt: skip
        for node_id, node in enumerate(self.nodes):
            fields = {
                "depth": node.depth, "text": node.text, "kind": node.kind, "mean_logprob": node.mean_logprob,
                "num_tokens": len(node.token_ids), "multiplicity": node.multiplicity, "rollout": node.rollout,
                "execution": node.execution, "stdout": node.stdout, "error": node.error, "terminal": node.terminal,
                "answer": node.answer, "verified": node.verified, "initial_value": node.initial_value,
                "visit_count": node.visit_count, "value_sum": node.value_sum, "q_value": node.q_value,
                "closed": node.closed,
            }  # fmt: skip
            present = {key: value for key, value in fields.items() if value is not None}
            graph.add_node(
                node_id, **{k: str(v) if isinstance(v, StrEnum) else v for k, v in present.items()}
            )
            if node.parent != NO_PARENT:
                graph.add_edge(node.parent, node_id)
        return graph


def check_invariants(tree: Tree) -> None:
    """Raise AssertionError, naming the node, unless the tree is consistent. Holds for any tree at rest.

    Visits add up: N = [scored by the value model] + [terminal] + sum over children of (N - [child scored]);
    values likewise; |Q| <= 1; links, depths and closing agree; failed and unparsable nodes are leaves.
    """
    for node_id, node in enumerate(tree.nodes):
        where = f"{tree.name} node {node_id}"
        children = [tree.nodes[child] for child in node.children]
        live = [child for child in children if child.live]
        assert node.in_flight == 0, f"{where}: a rollout is still in flight"
        if node_id == ROOT:
            assert node.parent == NO_PARENT, f"{where}: the root has no parent"
            assert node.depth == 0, f"{where}: the root is at depth 0"
        else:
            assert 0 <= node.parent < node_id, f"{where}: its parent comes before it"
            assert node_id in tree.nodes[node.parent].children, f"{where}: its parent does not list it"
            assert node.depth == tree.nodes[node.parent].depth + 1, f"{where}: depth is its parent's plus one"
        assert len(set(node.children)) == len(node.children), f"{where}: a child is listed twice"
        assert all(child.parent == node_id for child in children), (
            f"{where}: it lists a child of another node"
        )
        if not node.live:
            assert not children, f"{where}: a failed step has children"
            assert node.visit_count == 0, f"{where}: a failed step was visited"
            assert node.terminal is None, f"{where}: a failed step is not terminal"
            assert node.initial_value is None, f"{where}: a failed step was scored"
            continue
        if node.terminal is not None:
            assert not live, f"{where}: a terminal node has a live child"
        own_visits = int(node.scored) + int(node.terminal is not None)
        visits = own_visits + sum(child.visit_count - int(child.scored) for child in live)
        assert node.visit_count == visits, f"{where}: N is {node.visit_count}, its parts add up to {visits}"
        if node.terminal is None:
            value = _first_value(node) + sum(child.value_sum - _first_value(child) for child in live)
            assert abs(node.value_sum - value) < 1e-6 * max(1, visits), f"{where}: W does not add up"
        assert abs(node.q_value) <= 1 + 1e-9, f"{where}: Q is {node.q_value}"
        closed = node.terminal is not None or (bool(live) and all(child.closed for child in live))
        assert node.closed == closed, f"{where}: closed is {node.closed}, should be {closed}"


def _first_value(node: Node) -> float:
    return node.initial_value if node.scored and node.initial_value is not None else 0.0
