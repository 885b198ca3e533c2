"""Hypothesis strategies: trees with any value in any field, as far as their links hold together."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from rstar.protocols import ExecutionVerdict
from rstar.steps import StepKind
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree

any_text = st.text(st.characters(codec=None, categories=None), max_size=40) | st.sampled_from(
    [
        "",
        "\x00",
        "\ud800",
        "\ud83d\ude00",
        "\U0010fffd",
        "\U0010fffdd800",
        "naïve – 数学 🙂",
        "a\r\nb\t\u2028",
    ]
)
any_float = st.floats(allow_nan=False) | st.sampled_from([-0.0, math.inf, -math.inf, 5e-324, 0.1])
counts = st.integers(0, 2**31 - 1)
token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=8).map(tuple)


@st.composite
def trees(draw: st.DrawFn, problem_ids: st.SearchStrategy[str] = any_text) -> Tree:
    """Up to a dozen nodes; statistics need not add up, since a store keeps what it is given."""
    tree = Tree(
        problem_id=draw(problem_ids), question=draw(any_text), seed=draw(st.integers(-(2**63), 2**63 - 1)),
        tree_index=draw(counts), num_rollouts=draw(counts), num_tokens=draw(counts), num_executions=draw(counts),
        nodes=[draw(_node(NO_PARENT, 0))],
    )  # fmt: skip
    for node_id in range(1, draw(st.integers(1, 12))):
        parents = [n for n in range(node_id) if n == ROOT or tree.nodes[n].kind is not None]
        parent = draw(st.sampled_from(parents))
        tree.nodes.append(draw(_node(parent, tree.nodes[parent].depth + 1)))
        tree.nodes[parent].children.append(node_id)
    return tree


@st.composite
def _node(draw: st.DrawFn, parent: int, depth: int) -> Node:
    kind = draw(st.none() | st.sampled_from(StepKind))
    answer = draw(st.none() | any_text)
    reasons: list[Any] = [None, *TerminalReason]
    if parent == NO_PARENT or kind is None or answer is None:
        reasons.remove(TerminalReason.ANSWERED)
    return Node(
        parent=parent, depth=depth, text=draw(any_text), kind=kind, token_ids=draw(token_ids),
        mean_logprob=draw(any_float), multiplicity=draw(counts), rollout=draw(counts),
        execution=draw(st.sampled_from(ExecutionVerdict)), stdout=draw(any_text), error=draw(any_text),
        terminal=draw(st.sampled_from(reasons)), answer=answer, verified=draw(st.none() | st.booleans()),
        initial_value=draw(st.none() | any_float), visit_count=draw(counts), value_sum=draw(any_float),
        closed=draw(st.booleans()),
    )  # fmt: skip


def same(left: Tree, right: Tree) -> bool:
    """Equal in every field, signs of zeros, NaNs and types included."""
    return repr(left) == repr(right)
