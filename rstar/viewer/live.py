"""What a page of a running search is sent: first the whole tree, then what has changed of it.

    live = LiveTree("live")           # one per listener: whoever connects anew starts with the whole tree
    while searching:
        if event := live.event(tree): send(event)
    send(END)

An event `tree` carries `{"pane": 0, "tree": {...}}`, which the page's `viewer.update` reads. `END` says that nothing
follows: the page no longer listens.
"""

from __future__ import annotations

from typing import Any

from rstar.tree import Node, Tree
from rstar.viewer.columns import plain_tree, to_json

END = "event: end\ndata: {}\n\n"


class LiveTree:
    """One tree as one listener knows it. `pane` is its place among the trees of the page, from 0."""

    def __init__(self, label: str, *, pane: int = 0) -> None:
        self.label = label
        self.pane = pane
        self._known: list[tuple[Any, ...]] | None = None
        self._counts: tuple[int, ...] = ()

    def event(self, tree: Tree) -> str:
        """The server-sent event that brings the listener up to date; empty if it is."""
        message = self.message(tree)
        return "" if message is None else f"event: tree\ndata: {to_json(message)}\n\n"

    def message(self, tree: Tree) -> dict[str, Any] | None:
        """The same as plain values; None if nothing has changed."""
        states = [_state(node) for node in tree.nodes]
        known, self._known = self._known, states
        counts, self._counts = self._counts, (tree.num_rollouts, tree.num_tokens, tree.num_executions)
        if known is None:
            return {"pane": self.pane, "tree": plain_tree(tree, self.label)}
        changed = [at for at, state in enumerate(states) if at >= len(known) or known[at] != state]
        if not changed and counts == self._counts:
            return None
        return {"pane": self.pane, "tree": plain_tree(tree, self.label, changed)}


def _state(node: Node) -> tuple[Any, ...]:
    """All of a node that may change once it is in a tree."""
    return node.visit_count, node.value_sum, node.terminal, node.error
