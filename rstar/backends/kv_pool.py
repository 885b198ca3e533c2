"""The KV cache of the requests being decoded, and attention over it: a prefix is held once for all its candidates.

A slot belongs to one request. Its columns hold the prefix and, behind it, the tokens of the candidates in the order in
which they were sampled; a mask says which lane (candidate) sees which column. Rows of the batch (one per lane that
feeds a token) are laid out densely by slot for attention only, so finished lanes cost nothing elsewhere.

Slots live in pools of a fixed number of columns, so that one long request does not make all others attend to padding.

Shape letters: R rows, S slots of a pool, L lanes, H query heads, K key-value heads, G = H / K, T columns, D head size.

What this file does not cover: which tokens are fed and sampled (`engine`), what is kept afterwards (`prefix_cache`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LANES = 16
"""Rows of one slot in one step: candidates, or tokens of a prefix being fed. Requests with more candidates are split."""

_MIN_COLUMNS = 128
_COLUMN_STEP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """Sizes of the keys and values of one token, equal in all layers."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def zeros(self, *lead: int, num_columns: int) -> Tensor:
        """Keys and values (layers, 2, *lead, kv_heads, columns, head_dim). Zeros, since masked garbage must be finite."""
        shape = (self.num_layers, 2, *lead, self.num_kv_heads, num_columns, self.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


class KVPool:
    """Slots with the same number of columns. Slot indices are dense: `num_slots` are in use, the first ones."""

    def __init__(self, shape: KVShape, num_columns: int) -> None:
        self.num_columns = num_columns
        self.num_slots = 0
        self._shape = shape
        self.capacity = 4
        self.kv, self.mask_SLT = self._allocate()
        self._index_layers()

    def _allocate(self) -> tuple[Tensor, Tensor]:
        dtype, device = self._shape.dtype, self._shape.device
        shape_SLT = (self.capacity, MAX_LANES, self.num_columns)
        mask_SLT = torch.full(shape_SLT, torch.finfo(dtype).min, dtype=dtype, device=device)
        return self._shape.zeros(self.capacity, num_columns=self.num_columns), mask_SLT

    def _grow(self) -> None:
        old_kv, old_mask_SLT = self.kv, self.mask_SLT
        self.capacity *= 2
        self.kv, self.mask_SLT = self._allocate()
        self.kv[:, :, : self.num_slots] = old_kv[:, :, : self.num_slots]
        self.mask_SLT[: self.num_slots] = old_mask_SLT[: self.num_slots]
        self._index_layers()

    def _index_layers(self) -> None:
        self._keys = [layer[0].view(-1, self._shape.head_dim) for layer in self.kv]
        self._values = [layer[1].view(-1, self._shape.head_dim) for layer in self.kv]

    def add_slot(self) -> int:
        """A new slot's index. Its mask hides everything."""
        if self.num_slots == self.capacity:
            self._grow()
        self.hide(self.num_slots)
        self.num_slots += 1
        return self.num_slots - 1

    def remove_slot(self, slot: int) -> int:
        """Free a slot. The last slot moves into its place; returns the index that the moved one had."""
        last = self.num_slots - 1
        if slot != last:
            self.kv[:, :, slot] = self.kv[:, :, last]
            self.mask_SLT[slot] = self.mask_SLT[last]
        self.num_slots = last
        return last

    def hide(self, slot: int) -> None:
        """No lane of the slot sees any column."""
        self.mask_SLT[slot] = torch.finfo(self.mask_SLT.dtype).min

    def show(self, slot: int, lanes: slice, columns: slice) -> None:
        """These lanes see these columns."""
        self.mask_SLT[slot, lanes, columns] = 0

    def show_causal(self, slot: int, start: int, length: int) -> None:
        """Lane i sees the columns up to `start + i`: the mask for feeding `length` tokens of a prefix at once."""
        hidden = torch.full((length, length), torch.finfo(self.mask_SLT.dtype).min, dtype=self.mask_SLT.dtype)
        self.mask_SLT[slot, :length, :start] = 0
        self.mask_SLT[slot, :length, start : start + length] = hidden.triu(1).to(self.mask_SLT.device)

    def write(self, slot: int, start: int, kv: Tensor) -> int:
        """Copy keys and values (layers, 2, K, n, D) into columns from `start` on; returns the column after them."""
        end = start + kv.shape[-2]
        self.kv[:, :, slot, :, start:end] = kv
        return end

    def read(self, slot: int, columns: Sequence[int]) -> Tensor:
        """A copy of the keys and values of these columns, (layers, 2, K, n, D)."""
        if isinstance(columns, range):
            return self.kv[:, :, slot, :, columns.start : columns.stop].clone()
        return self.kv[:, :, slot].index_select(3, torch.tensor(columns, device=self.kv.device))

    def layer(self, layer: int, num_columns: int) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of the slots in use, (S * K, `num_columns`, D) each."""
        num_kv_heads = self._shape.num_kv_heads
        num_rows = self.num_slots * num_kv_heads
        keys = self.kv[layer, 0].view(-1, self.num_columns, self._shape.head_dim)[:num_rows, :num_columns]
        values = self.kv[layer, 1].view(-1, self.num_columns, self._shape.head_dim)[:num_rows, :num_columns]
        return keys, values

    def append(self, layer: int, flat: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write one token per row: `flat` (R * K,) are indices of (slot, head, column), keys and values (R * K, D)."""
        self._keys[layer].index_copy_(0, flat, keys)
        self._values[layer].index_copy_(0, flat, values)


@dataclass(frozen=True, slots=True)
class PoolRows:
    """The rows of one step that belong to one pool: `rows` is their slice of the batch."""

    pool: KVPool
    rows: slice
    num_lanes: int
    num_columns: int
    lanes_R: Tensor
    """Index of (slot, lane), slot * num_lanes + lane."""
    flat_RK: Tensor
    """Index of (slot, head, column) where the row's keys and values go."""

    def append(self, layer: int, keys_RKD: Tensor, values_RKD: Tensor) -> None:
        """Store what this step's tokens add."""
        head_dim = keys_RKD.shape[-1]
        keys, values = keys_RKD[self.rows], values_RKD[self.rows]
        self.pool.append(layer, self.flat_RK, keys.reshape(-1, head_dim), values.reshape(-1, head_dim))

    def attend(self, layer: int, query_RHD: Tensor, scaling: float) -> Tensor:
        """Softmax attention of each row over the columns that its lane sees; (rows, H, D)."""
        num_slots, num_lanes, num_columns = self.pool.num_slots, self.num_lanes, self.num_columns
        query = query_RHD[self.rows]
        num_heads, head_dim = query.shape[1:]
        keys_XTD, values_XTD = self.pool.layer(layer, num_columns)  # X = S * K
        num_kv_heads = keys_XTD.shape[0] // num_slots
        groups = num_heads // num_kv_heads
        dense = query.new_zeros((num_slots * num_lanes, num_heads, head_dim))
        dense.index_copy_(0, self.lanes_R, query * scaling)
        dense_XND = (  # N = L * G
            dense.view(num_slots, num_lanes, num_kv_heads, groups, head_dim)
            .transpose(1, 2)
            .reshape(num_slots * num_kv_heads, num_lanes * groups, head_dim)
        )
        scores_XNT = torch.bmm(dense_XND, keys_XTD.transpose(1, 2))
        scores = scores_XNT.view(num_slots, num_kv_heads, num_lanes, groups, num_columns)
        scores += self.pool.mask_SLT[:num_slots, None, :num_lanes, None, :num_columns]
        wide = torch.promote_types(query.dtype, torch.float32)
        probs_XNT = torch.softmax(scores_XNT, dim=-1, dtype=wide).to(query.dtype)
        out = torch.bmm(probs_XNT, values_XTD).view(num_slots, num_kv_heads, num_lanes, groups, head_dim)
        return out.transpose(1, 2).reshape(num_slots * num_lanes, num_heads, head_dim)[self.lanes_R]


def pool_size(num_columns: int) -> int:
    """Columns of the pool for a slot that needs `num_columns`: 128 times a power of two, at most twice too many."""
    size = _MIN_COLUMNS
    while size < num_columns:
        size *= 2
    return size


def round_columns(num_columns: int, limit: int) -> int:
    """`num_columns` rounded up so that matrix sizes repeat, at most `limit`."""
    return min(-(-num_columns // _COLUMN_STEP) * _COLUMN_STEP, limit)
