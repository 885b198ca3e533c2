"""From examples to the tensors of a micro-batch, several examples to a row without one seeing another.

Each example's positions start at 0; the model makes its attention block-diagonal where positions start over, so no
attention mask is needed (padding stands behind everything it could be seen by). Legend: B rows, T tokens of a row.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch

from policy.config import Packing
from policy.losses import IGNORED
from policy.sft_sets import SFTExample

PADDING_ID = 0
"""Any valid id does: nothing attends to padding and no loss reads it."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few rows as best-fit-decreasing finds; each row's lengths add up to `capacity` at most.

    Returns each row's item indices. Deterministic: equal lengths keep their order. Raises ValueError if an item is
    longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted: the tightest fit is found by bisection
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        if length > capacity:
            raise ValueError(f"item {item} is {length} long; a row holds {capacity}")
        at = bisect.bisect_left(open_rows, (length, -1))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
            rows[row].append(item)
        else:
            room, row = capacity, len(rows)
            rows.append([item])
        bisect.insort(open_rows, (room - length, row))
    return rows


def collate(examples: Sequence[SFTExample], packing: Packing) -> dict[str, torch.Tensor]:
    """The model's inputs for a micro-batch: `input_ids_BT`, `position_ids_BT` and `labels_BT` (int64), under the
    names that Hugging Face models take. A label is its own token where the policy wrote it, else `IGNORED`. Without
    examples it is one token that nothing is learned from."""
    if not examples:
        return {
            "input_ids": torch.full((1, 1), PADDING_ID),
            "position_ids": torch.zeros((1, 1), dtype=torch.int64),
            "labels": torch.full((1, 1), IGNORED),
        }
    lengths = [len(example.token_ids) for example in examples]
    match packing:
        case Packing.OFF:
            rows = [[item] for item in range(len(examples))]
        case Packing.ROWS:
            rows = pack(lengths, max(lengths))
        case Packing.FLAT:
            rows = [list(range(len(examples)))]
    width = max(sum(lengths[item] for item in row) for row in rows)
    input_ids_BT = torch.full((len(rows), width), PADDING_ID)
    labels_BT = torch.full((len(rows), width), IGNORED)
    position_ids_BT = torch.zeros((len(rows), width), dtype=torch.int64)
    for row, items in enumerate(rows):
        start = 0
        for item in items:
            example = examples[item]
            end = start + lengths[item]
            ids_T = torch.tensor(example.token_ids)
            mask_T = torch.tensor(example.loss_mask, dtype=torch.bool)
            input_ids_BT[row, start:end] = ids_T
            labels_BT[row, start:end] = torch.where(mask_T, ids_T, IGNORED)
            position_ids_BT[row, start:end] = torch.arange(lengths[item])
            start = end
        # Padding carries the last example's positions on, so that it does not count as examples of its own.
        position_ids_BT[row, start:] = torch.arange(lengths[items[-1]], lengths[items[-1]] + width - start)
    return {"input_ids": input_ids_BT, "position_ids": position_ids_BT, "labels": labels_BT}
