"""Keys and values of token prefixes, kept in a radix tree so that what shares a beginning shares memory.

A segment is a run of token ids with its keys and values, a tensor of shape (layers, 2, kv_heads, tokens, head_dim).
The path from the root spells the prefix. The least recently used leaf goes first when the budget is exceeded.

What this file does not cover: where keys and values come from (`engine`, `kv_pool`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor


class Segment:
    """A node of the tree. `token_ids` and `kv` are the run between its parent's end and its own."""

    __slots__ = ("children", "kv", "parent", "token_ids")

    def __init__(self, token_ids: tuple[int, ...], kv: Tensor | None, parent: Segment | None) -> None:
        self.token_ids = token_ids
        self.kv = kv
        self.parent = parent
        self.children: dict[int, Segment] = {}


class PrefixCache:
    """The tree, its memory budget, and the order of use.

    Whoever is used is used together with all its ancestors, and they count as used later, so the least recently used
    segment is always a leaf.
    """

    def __init__(self, *, max_bytes: int, bytes_per_token: int) -> None:
        self._root = Segment((), None, None)
        self._by_use: OrderedDict[Segment, None] = OrderedDict()
        self._max_tokens = max_bytes // bytes_per_token
        self._num_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens held, at most the budget."""
        return self._num_tokens

    def can_hold(self, num_tokens: int) -> bool:
        """Whether a prefix of this length fits into the budget at all."""
        return num_tokens <= self._max_tokens

    def clear(self) -> None:
        """Forget everything."""
        self._root = Segment((), None, None)
        self._by_use.clear()
        self._num_tokens = 0

    def match(self, token_ids: Sequence[int]) -> list[Tensor]:
        """Keys and values of the longest cached beginning of `token_ids`, as tensors to be laid end to end."""
        kv: list[Tensor] = []
        segment, start = self._root, 0
        while start < len(token_ids) and (child := segment.children.get(token_ids[start])) is not None:
            common = _common_length(child.token_ids, token_ids, start)
            assert child.kv is not None
            kv.append(child.kv[..., :common, :])
            segment, start = child, start + common
            if common < len(child.token_ids):
                break
        self._touch(segment)
        return kv

    def insert(self, token_ids: Sequence[int], start: int, make_kv: Callable[[int], Tensor]) -> None:
        """Add `token_ids`; `make_kv(i)` gives the keys and values of `token_ids[i:]` and is called for i >= `start` only.

        Does nothing where the tree no longer holds the first `start` tokens, or already holds all.
        """
        segment, at = self._root, 0
        while at < len(token_ids) and (child := segment.children.get(token_ids[at])) is not None:
            common = _common_length(child.token_ids, token_ids, at)
            at += common
            if common < len(child.token_ids):
                segment = self._split(child, common) if at < len(token_ids) else child
                break
            segment = child
        self._touch(segment)
        num_new = len(token_ids) - at
        if at < start or not 0 < num_new <= self._max_tokens:
            return
        leaf = Segment(tuple(token_ids[at:]), make_kv(at), segment)
        segment.children[token_ids[at]] = leaf
        self._num_tokens += num_new
        self._touch(leaf)
        while self._num_tokens > self._max_tokens:
            self._evict()

    def _split(self, segment: Segment, length: int) -> Segment:
        """Cut a segment in two; returns the upper part. Copies, so that evicting one part frees its memory."""
        assert segment.kv is not None
        assert segment.parent is not None
        upper = Segment(segment.token_ids[:length], segment.kv[..., :length, :].clone(), segment.parent)
        segment.parent.children[upper.token_ids[0]] = upper
        upper.children[segment.token_ids[length]] = segment
        segment.kv = segment.kv[..., length:, :].clone()
        segment.token_ids = segment.token_ids[length:]
        segment.parent = upper
        self._by_use[upper] = None
        return upper

    def _touch(self, segment: Segment) -> None:
        while segment.parent is not None:
            self._by_use[segment] = None
            self._by_use.move_to_end(segment)
            segment = segment.parent

    def _evict(self) -> None:
        leaf, _ = self._by_use.popitem(last=False)
        assert leaf.parent is not None
        assert not leaf.children
        del leaf.parent.children[leaf.token_ids[0]]
        self._num_tokens -= len(leaf.token_ids)


def _common_length(segment_ids: tuple[int, ...], token_ids: Sequence[int], start: int) -> int:
    """How many ids of the segment equal those of `token_ids` from `start` on."""
    limit = min(len(segment_ids), len(token_ids) - start)
    if segment_ids[:limit] == tuple(token_ids[start : start + limit]):
        return limit
    return next(i for i in range(limit) if segment_ids[i] != token_ids[start + i])
