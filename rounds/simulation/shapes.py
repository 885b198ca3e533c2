"""What of a tree decides how long its search takes: for each expansion how much is decoded, run and scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rstar.protocols import ExecutionVerdict
from rstar.tree import Tree


@dataclass(frozen=True, slots=True)
class Expansion:
    """One expansion. `token_counts`: of every candidate sampled. `timeouts`: of the executions, those that took all the time
    they may have. `scored_tokens`: of the steps a value model reads."""

    token_counts: tuple[int, ...]
    executions: int
    scored_tokens: int = 0
    timeouts: int = 0


Shape = tuple[Expansion, ...]
"""The expansions of a tree, one after the other."""


def shape_of(tree: Tree, *, guided: bool = False) -> Shape:
    """The shape of a tree that was searched, in the order of its search."""
    expanded = [(node_id, node) for node_id, node in enumerate(tree.nodes) if node.children]
    expanded.sort(key=lambda entry: (tree.nodes[entry[1].children[0]].rollout, entry[1].depth, entry[0]))
    shape = []
    for _, node in expanded:
        children = [tree.nodes[child] for child in node.children]
        counts = [len(child.token_ids) for child in children for _ in range(child.multiplicity)]
        ran = sum(child.kind is not None and child.answer is None for child in children)
        scored = sum(len(child.token_ids) for child in children if child.live) if guided else 0
        late = sum(child.execution is ExecutionVerdict.TIMEOUT for child in children)
        shape.append(Expansion(tuple(counts), ran, scored, late))
    return tuple(shape)


def random_shape(
    chance: random.Random,
    *,
    num_rollouts: int,
    num_candidates: int,
    depth: float,
    tokens_per_step: float,
    executed_share: float,
    guided: bool,
) -> Shape:
    """A shape as the plan's assumptions have it: a path's depth is 2 plus a geometric number, a step's length exponential
    (at least 5), later rollouts begin one or two steps down as in `rounds.plan.workload.expansions`."""
    longest = _depth(chance, depth)
    shape = []
    for rollout in range(num_rollouts):
        begun = 0 if rollout == 0 else 1 if rollout <= num_candidates else 2
        for _ in range(max(1, longest - begun)):
            counts = tuple(
                5 + int(chance.expovariate(1 / (tokens_per_step - 5))) for _ in range(num_candidates)
            )
            ran = sum(chance.random() < executed_share for _ in range(num_candidates))
            shape.append(Expansion(counts, ran, sum(counts) if guided else 0))
    return tuple(shape)


def _depth(chance: random.Random, mean: float) -> int:
    """From 2 to 16, in the mean about `mean`."""
    going_on = (mean - 2) / (mean - 1)
    depth = 2
    while depth < 16 and chance.random() < going_on:
        depth += 1
    return depth


def mean_work(shapes: Sequence[Shape]) -> tuple[float, float]:
    """Expansions and tokens per tree."""
    expansions = sum(map(len, shapes)) / len(shapes)
    tokens = sum(sum(one.token_counts) for shape in shapes for one in shape) / len(shapes)
    return expansions, tokens
