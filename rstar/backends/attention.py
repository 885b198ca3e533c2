"""The seam to Hugging Face models: an attention function that reads the engine's key-value pools, and three caches.

A model loaded with `attn_implementation=NAME` calls `shared_prefix_attention` in every layer. While a decode step is
under way (`decoding`), its rows attend over the pools; otherwise it is plain SDPA with the mask that the model was given.

What this file does not cover: layout of keys and values (`kv_pool`), which tokens are fed (`engine`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rstar.backends.kv_pool import KVShape, PoolRows

NAME = "rstar_shared_prefix"


class _Step(threading.local):
    rows: Sequence[PoolRows] | None = None


_step = _Step()


@contextmanager
def decoding(rows: Sequence[PoolRows]) -> Iterator[None]:
    """Within it, models of this thread attend over the pools of these rows, which cover the batch in order."""
    _step.rows = rows
    try:
        yield
    finally:
        _step.rows = None


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Hugging Face's attention interface. Decoding: query (R, H, 1, D) to (R, 1, H, D)."""
    if _step.rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    query_RHD = query[:, :, 0]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = module.layer_idx
    assert isinstance(layer, int)
    parts = [rows.attend(layer, query_RHD, scale) for rows in _step.rows]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:, None], None


AttentionInterface.register(NAME, shared_prefix_attention)


class DecodeCache(Cache):
    """Writes each row's new keys and values into its pool. The attention function reads them there."""

    def __init__(self, rows: Sequence[PoolRows]) -> None:
        super().__init__(layers=[])
        self._rows = rows

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (R, K, 1, D) come back unchanged."""
        for rows in self._rows:
            rows.append(layer_idx, key_states[:, :, 0], value_states[:, :, 0])
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class PrefillCache(Cache):
    """Keys and values of several prefixes whose beginnings are known and whose ends are being computed at once.

    Row i holds its prefix in columns 0 to `lengths[i]`; the tokens fed are left-padded to one length.
    """

    def __init__(self, shape: KVShape, known: Sequence[Sequence[Tensor]], num_new: Sequence[int]) -> None:
        super().__init__(layers=[])
        self.starts = [sum(kv.shape[-2] for kv in segments) for segments in known]
        num_columns = max(start + new for start, new in zip(self.starts, num_new, strict=True))
        self.kv = shape.zeros(len(known), num_columns=num_columns)
        _write_beginnings(self.kv, known)
        width = max(num_new)
        offsets = torch.arange(width)[None, :] - (width - torch.tensor(num_new))[:, None]
        positions = torch.tensor(self.starts)[:, None] + offsets
        row_of, _ = (offsets >= 0).nonzero(as_tuple=True)
        self._fed = (offsets >= 0).flatten().nonzero()[:, 0].to(shape.device)
        heads = torch.arange(shape.num_kv_heads)
        flat = (row_of[:, None] * shape.num_kv_heads + heads) * num_columns + positions[offsets >= 0][:, None]
        self._flat = flat.flatten().to(shape.device)
        self.position_ids = positions.clamp(min=0).to(shape.device)
        hidden = torch.arange(num_columns, device=shape.device) > self.position_ids[:, :, None]
        self.mask = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device)
        self.mask = self.mask.masked_fill_(hidden, torch.finfo(shape.dtype).min)[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes keys and values (N, K, n, D) of the tokens fed; returns those of all columns, (N, K, T, D)."""
        head_dim = key_states.shape[-1]
        for into, states in zip(self.kv[layer_idx], (key_states, value_states), strict=True):
            new = states.transpose(1, 2).flatten(0, 1)[self._fed].reshape(-1, head_dim)
            into.view(-1, head_dim).index_copy_(0, self._flat, new)
        return self.kv[layer_idx, 0], self.kv[layer_idx, 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def computed(self, row: int, length: int) -> Tensor:
        """Keys and values (layers, 2, K, n, D) of the first `length` tokens of a row."""
        return self.kv[:, :, row, :, :length]


class TreeCache(Cache):
    """Keys and values of rows whose beginnings are known and whose continuations, trees of tokens, are computed at once.

    A row holds its beginning in the first columns and what is fed, `width` tokens, in the last; nothing sees the columns
    between the two, which are there because another row has a longer beginning.
    """

    def __init__(self, shape: KVShape, known: Sequence[Sequence[Tensor]], seen_NWW: Tensor) -> None:
        """`seen_NWW` is true where a token that is fed sees another one; all see the whole beginning of their row."""
        super().__init__(layers=[])
        starts = [sum(kv.shape[-2] for kv in segments) for segments in known]
        width = seen_NWW.shape[-1]
        self._first_new = max(starts)
        self.kv = shape.zeros(len(known), num_columns=self._first_new + width)
        _write_beginnings(self.kv, known)
        self.starts_N = torch.tensor(starts, device=shape.device)
        beginning_NT = torch.arange(self._first_new, device=shape.device) < self.starts_N[:, None]
        seen_NWT = torch.cat((beginning_NT[:, None].expand(-1, width, -1), seen_NWW), dim=-1)
        mask = torch.zeros(seen_NWT.shape, dtype=shape.dtype, device=shape.device)
        self.mask = mask.masked_fill_(~seen_NWT, torch.finfo(shape.dtype).min)[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes keys and values (N, K, W, D) of the tokens fed; returns those of all columns, (N, K, T, D)."""
        for into, states in zip(self.kv[layer_idx], (key_states, value_states), strict=True):
            into[:, :, self._first_new :] = states
        return self.kv[layer_idx, 0], self.kv[layer_idx, 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def computed(self, row: int, fed: Sequence[int]) -> Tensor:
        """A copy of the keys and values (layers, 2, K, n, D) of some of the tokens that a row was fed."""
        columns = torch.tensor(fed, device=self.kv.device) + self._first_new
        return self.kv[:, :, row].index_select(3, columns)


def _write_beginnings(kv: Tensor, known: Sequence[Sequence[Tensor]]) -> None:
    """Copy the segments (layers, 2, K, n, D) of each row end to end into its first columns."""
    for row, segments in enumerate(known):
        start = 0
        for segment in segments:
            end = start + segment.shape[-2]
            kv[:, :, row, :, start:end] = segment
            start = end
