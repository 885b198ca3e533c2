"""From groups of pairs, or of labelled continuations, to the tensors of a micro-batch; steps share the tokens of their prefix.

A sequence is a prefix and one continuation; its score is read at its last token. With `Sharing.PREFIX` the sequences of a
group form one token tree, with `Sharing.TREE` all those of one search tree; trees lie beside each other in rows, and no
token sees one of another sequence. So scores, loss and gradients are those of every sequence by itself.

Legend: B rows, T tokens of a row, G groups, S sequences, P pairs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ppm.config import PPMConfig, Sharing
from ppm.groups import Continuation, Group, LabelledGroup, PairGroup
from ppm.token_tree import TokenTree, token_tree
from rstar.errors import StageError
from rstar.seeds import rng

PADDING_ID = 0
"""Any valid id does: nothing but itself attends to padding, and no score is read there."""

MicroBatch = tuple[Group, ...]


def judged_ids(prefix_ids: tuple[int, ...], step_ids: tuple[int, ...], max_length: int) -> tuple[int, ...]:
    """Prefix and step, the left of the prefix cut off if they are longer than `max_length` together.

    It depends on these alone, whatever else is scored beside them, so training and search see the same. Raises
    ValueError if there is no room for the step: what is judged is never cut.
    """
    if len(step_ids) > max_length:
        raise ValueError(f"{len(step_ids)} tokens to judge; max_length is {max_length}")
    return (prefix_ids + step_ids)[-max_length:]


def sequence(group: Group, continuation: Continuation, max_length: int) -> tuple[int, ...]:
    """The `judged_ids` of a continuation. Raises StageError if it is too long."""
    try:
        return judged_ids(group.prefix_ids, continuation.token_ids, max_length)
    except ValueError as error:
        raise StageError(
            f"a step or trajectory of problem {group.problem_id} has {error}: raise it or lower max_tokens of the pairs"
        ) from None


def collate(groups: Sequence[Group], *, sharing: Sharing, max_length: int) -> dict[str, Tensor]:
    """The tensors of a micro-batch.

    For the model: `input_ids`, `position_ids`, `subtree_ends` (B, T) and `read_at` (S,). For the losses, of pairs:
    `chosen`, `rejected` (P,), indices into the scores, and `pair_weights` (P,); of labelled continuations: `q_values` and
    `score_weights` (S,). Weights add up to 1 in each group. `labels` (G,) is what the Trainer counts: the loss is a mean
    over groups. Without groups it is one token that nothing is learned from.
    """
    sequences: list[tuple[int, ...]] = []
    block_of: list[Hashable] = []
    fields: dict[str, list[Any]] = {
        name: [] for name in ("chosen", "rejected", "pair_weights", "q_values", "score_weights")
    }
    for index, group in enumerate(groups):
        first = len(sequences)
        for continuation in group.continuations:
            block_of.append(_block(group, index, len(sequences), sharing))
            sequences.append(sequence(group, continuation, max_length))
        match group:
            case PairGroup():
                first_rejected = first + len(group.chosen)
                fields["chosen"] += [first + chosen for chosen, _ in group.pairs]
                fields["rejected"] += [first_rejected + rejected for _, rejected in group.pairs]
                fields["pair_weights"] += [1 / group.size] * group.size
            case LabelledGroup():
                fields["q_values"] += [continuation.q_value for continuation in group.continuations]
                fields["score_weights"] += [1 / group.size] * group.size
    tensors = lay_out(sequences, block_of, share_rows=sharing is not Sharing.OFF)
    if not groups:
        indices = torch.zeros(0, dtype=torch.int64)
        tensors |= {name: indices if name in ("chosen", "rejected") else indices.float() for name in fields}
    tensors |= {name: torch.tensor(values) for name, values in fields.items() if values}
    tensors["labels"] = torch.zeros(len(groups), dtype=torch.int64)
    return tensors


def num_tokens(groups: Sequence[Group], *, sharing: Sharing, max_length: int) -> int:
    """Tokens that a model computes for `groups` in one micro-batch, padding aside."""
    blocks: dict[Hashable, list[tuple[int, ...]]] = {}
    for index, group in enumerate(groups):
        for at, continuation in enumerate(group.continuations):
            key = _block(group, index, at, sharing)
            blocks.setdefault(key, []).append(sequence(group, continuation, max_length))
    return sum(len(token_tree(sequences)) for sequences in blocks.values())


def _block(group: Group, group_index: int, sequence_index: int, sharing: Sharing) -> Hashable:
    """Names what shares tokens."""
    match sharing:
        case Sharing.OFF:
            return (group_index, sequence_index)
        case Sharing.PREFIX:
            return group_index
        case Sharing.TREE:
            return _tree_key(group)


def _tree_key(group: Group) -> tuple[str, int]:
    return (group.problem_id, group.tree_index)


def lay_out(
    sequences: Sequence[tuple[int, ...]], block_of: Sequence[Hashable], *, share_rows: bool
) -> dict[str, Tensor]:
    """The tensors for the model. Sequences of one block form a token tree; trees lie in as few rows as the longest-first
    rule finds, or each in its own."""
    members: dict[Hashable, list[int]] = {}
    for index, block in enumerate(block_of):
        members.setdefault(block, []).append(index)
    blocks = [(indices, token_tree([sequences[i] for i in indices])) for indices in members.values()]
    width = max((len(tree) for _, tree in blocks), default=1)
    rows: list[list[tuple[list[int], TokenTree]]] = []
    room: list[int] = []
    for indices, tree in sorted(blocks, key=lambda block: -len(block[1])):
        fits = (row for row in range(len(rows)) if share_rows and room[row] >= len(tree))
        row = next(fits, len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append((indices, tree))
        room[row] -= len(tree)
    if not rows:
        rows.append([])
    input_ids_BT = torch.full((len(rows), width), PADDING_ID)
    position_ids_BT = torch.zeros((len(rows), width), dtype=torch.int64)
    subtree_ends_BT = torch.arange(1, width + 1).repeat(
        len(rows), 1
    )  # padding sees itself, and nothing sees it
    read_at_S = torch.zeros(len(sequences), dtype=torch.int64)
    for row, trees in enumerate(rows):
        start = 0
        for indices, tree in trees:
            end = start + len(tree)
            input_ids_BT[row, start:end] = torch.tensor(tree.token_ids)
            position_ids_BT[row, start:end] = torch.tensor(tree.positions)
            subtree_ends_BT[row, start:end] = torch.tensor(tree.subtree_ends) + start
            read_at_S[indices] = torch.tensor(tree.last_tokens) + row * width + start
            start = end
    return {
        "input_ids": input_ids_BT,
        "position_ids": position_ids_BT,
        "subtree_ends": subtree_ends_BT,
        "read_at": read_at_S,
    }


def plan(
    groups: Sequence[Group], config: PPMConfig, *, seed: int, num_processes: int = 1
) -> tuple[list[MicroBatch], int]:
    """The micro-batches of a whole training in order, and how many make one optimiser step (over all processes).

    Each epoch goes through all groups in an order of its own, derived from `seed`. A step takes whole groups (with
    `Sharing.TREE`: whole trees) until it has `global_batch_size` pairs (or labelled continuations), and spreads them evenly
    over micro-batches of about `micro_batch_tokens`; a rest too small for those of one process joins the step before. The
    steps are the same for any number of processes; where one has fewer groups than micro-batches, some of these are empty.
    """
    units = _units(groups, config.sharing)
    costs = [num_tokens(unit, sharing=config.sharing, max_length=config.max_length) for unit in units]
    epochs = []
    for epoch in range(config.epochs):
        order = list(range(len(units)))
        rng(seed, "ppm", "epoch", epoch).shuffle(order)
        epochs.append(
            _steps(order, [sum(group.size for group in unit) for unit in units], config.global_batch_size)
        )
    heaviest = max(sum(costs[unit] for unit in step) for steps in epochs for step in steps)
    most_units = max(len(step) for steps in epochs for step in steps)
    num_parts = max(1, min(math.ceil(heaviest / config.micro_batch_tokens), most_units))
    per_step = num_processes * math.ceil(num_parts / num_processes)
    micro_batches: list[MicroBatch] = []
    for steps in epochs:
        for step in _joined(steps, num_parts):
            for part in _spread(step, costs, per_step):
                micro_batches.append(tuple(group for unit in part for group in units[unit]))
    return micro_batches, per_step


def _units(groups: Sequence[Group], sharing: Sharing) -> list[list[Group]]:
    """What is shuffled: groups, or all groups of a tree together."""
    if sharing is not Sharing.TREE:
        return [[group] for group in groups]
    return [list(unit) for _, unit in groupby(sorted(groups, key=_tree_key), key=_tree_key)]


def _steps(order: Sequence[int], sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    steps: list[list[int]] = [[]]
    size = 0
    for unit in order:
        if steps[-1] and size + sizes[unit] > batch_size:
            steps.append([])
            size = 0
        steps[-1].append(unit)
        size += sizes[unit]
    return steps


def _joined(steps: Sequence[Sequence[int]], per_step: int) -> list[list[int]]:
    joined: list[list[int]] = []
    for step in steps:
        if joined and min(len(step), len(joined[-1])) < per_step:
            joined[-1] += step
        else:
            joined.append(list(step))
    return joined


def _spread(step: Sequence[int], costs: Sequence[int], num_parts: int) -> list[list[int]]:
    """Parts of about equal cost, empty only where there are too few: the dearest first, each to the cheapest so far."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    heap = [(0, part) for part in range(num_parts)]
    for unit in sorted(step, key=lambda unit: (-costs[unit], unit)):
        cost, part = heapq.heappop(heap)
        parts[part].append(unit)
        heapq.heappush(heap, (cost + costs[unit], part))
    return parts
