"""Select, expand, backup on one tree: the only writers of visit counts and values (rStar-Math, section 3.2).

One rule holds for values: every terminal node is backed up exactly once, when it is added. (An answer is never selected
again, so nothing else could add to it; and each distinct answer of an expansion counts, where the released code keeps
the first.) Under PPM guidance a new non-terminal node also starts with N = 1 and W = its score, not backed up.

What this file does not do: ask models, run code, grade. `search` does, and tells the tree the result.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rstar.config import SearchConfig, Selection
from rstar.scores import length_normalised_probability, puct, uct
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree

DEAD_END_VALUE = -1.0
"""What a node is worth that nothing can follow: every continuation failed to run, or there is no room for one;
backed up [ours]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A candidate after evaluation: its node, not yet in the tree, and its value.

    `value` is the terminal reward of a terminal node, the value model's score of any other, and None for a failed
    step or where no value model guides the search.
    """

    node: Node
    value: float | None = None


def select(
    tree: Tree, config: SearchConfig, chooser: random.Random, busy: Collection[int] = ()
) -> int | None:
    """Walk down from the root by the selection score to a node to expand; ties fall to `chooser`.

    Nodes in `busy` (being expanded by another rollout) are passed over. None if nothing is left to expand, or nothing
    that is not busy. Marks the path as in flight; `leave` unmarks it.
    """
    return _descend(tree, ROOT, config, chooser, busy)


def go_on(tree: Tree, node_id: int, config: SearchConfig, chooser: random.Random) -> int | None:
    """After an expansion: the best open child to go on with, marked as in flight; None if there is none."""
    ranked = _ranked(tree, node_id, config, chooser)
    if not ranked:
        return None
    tree.nodes[ranked[0]].in_flight += 1
    return ranked[0]


def leave(tree: Tree, node_id: int) -> None:
    """The rollout that came to `node_id` is over: unmark its path."""
    while node_id != NO_PARENT:
        tree.nodes[node_id].in_flight -= 1
        node_id = tree.nodes[node_id].parent


def expand(tree: Tree, parent_id: int, candidates: Sequence[Evaluated]) -> list[int]:
    """Add the evaluated candidates below their parent, back up what is terminal, close what is exhausted.

    If every candidate failed, the parent itself turns out to be a dead end. Returns the new node ids.
    """
    parent = tree.nodes[parent_id]
    assert not parent.children, f"{tree.name} node {parent_id}: a node is expanded once"
    assert candidates, f"{tree.name} node {parent_id}: an expansion has candidates"
    for candidate in candidates:
        node = candidate.node
        node_id = len(tree.nodes)
        tree.nodes.append(node)
        parent.children.append(node_id)
        if node.terminal is not None:
            assert candidate.value is not None, f"{tree.name} node {node_id}: a terminal node has a value"
            node.closed = True
            backup(tree, node_id, candidate.value)
        elif node.live and candidate.value is not None:
            node.initial_value = candidate.value
            node.visit_count, node.value_sum = 1, candidate.value
    if any(candidate.node.live for candidate in candidates):
        _close_upwards(tree, parent_id)
    else:
        give_up(tree, parent_id, TerminalReason.CODE_ERRORS)
    return list(parent.children)


def give_up(tree: Tree, node_id: int, reason: TerminalReason) -> None:
    """End the search below a node without live children: it turns out to be terminal, and that is backed up."""
    node = tree.nodes[node_id]
    assert not tree.live_children(node_id), f"{tree.name} node {node_id}: the search can go on below it"
    node.terminal = reason
    backup(tree, node_id, DEAD_END_VALUE)
    _close_upwards(tree, node_id)


def backup(tree: Tree, node_id: int, value: float) -> None:
    """Add a terminal value in [-1, 1] to the node and to every ancestor: N += 1, W += value (equation 2)."""
    assert -1 <= value <= 1, f"{tree.name} node {node_id}: value {value} is outside [-1, 1]"
    while node_id != NO_PARENT:
        node = tree.nodes[node_id]
        node.visit_count += 1
        node.value_sum += value
        node_id = node.parent


def selection_score(tree: Tree, child_id: int, config: SearchConfig) -> float:
    """The score by which `child_id` competes with its siblings.

    Other rollouts in flight count as visits that lost `virtual_loss`; the one that asks has marked the parent, not yet
    the child, and does not count.
    """
    child = tree.nodes[child_id]
    parent = tree.nodes[child.parent]
    visits = child.visit_count + child.in_flight
    parent_visits = parent.visit_count + max(0, parent.in_flight - 1)
    counted = child.visit_count if config.virtual_loss == 0 else visits
    q_value = (child.value_sum - config.virtual_loss * child.in_flight) / counted if counted else 0.0
    if config.selection is Selection.PUCT:
        prior = length_normalised_probability(child.mean_logprob)
        return puct(q_value, prior, visits, parent_visits, c_puct=config.c_puct)
    if visits == 0:
        return config.unvisited_score
    return uct(q_value, visits, parent_visits, c_uct=config.c_uct)


def _descend(
    tree: Tree, node_id: int, config: SearchConfig, chooser: random.Random, busy: Collection[int]
) -> int | None:
    """The best node to expand at or below `node_id`, second-best children tried where the best is busy; the path down
    to it is marked as in flight."""
    node = tree.nodes[node_id]
    if node.closed or node_id in busy:
        return None
    node.in_flight += 1
    if not node.children:
        return node_id
    for child in _ranked(tree, node_id, config, chooser):
        if (found := _descend(tree, child, config, chooser, busy)) is not None:
            return found
    node.in_flight -= 1
    return None


def _ranked(tree: Tree, node_id: int, config: SearchConfig, chooser: random.Random) -> list[int]:
    """The live, open children of a node, best first; equal scores in an order that `chooser` decides."""
    open_children = [child for child in tree.live_children(node_id) if not tree.nodes[child].closed]
    keys = {child: (selection_score(tree, child, config), chooser.random()) for child in open_children}
    return sorted(open_children, key=keys.__getitem__, reverse=True)


def _close_upwards(tree: Tree, node_id: int) -> None:
    """Close `node_id` and its ancestors as far as nothing is left to expand below them."""
    while node_id != NO_PARENT:
        node = tree.nodes[node_id]
        live = [tree.nodes[child] for child in node.children if tree.nodes[child].live]
        if node.terminal is None and not all(child.closed for child in live):
            return
        node.closed = True
        node_id = node.parent
