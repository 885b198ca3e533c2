"""The prefix cache against a dictionary of all prefixes."""

from __future__ import annotations

from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rstar.backends.prefix_cache import PrefixCache

BYTES_PER_TOKEN = 8

ids = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


def kv_of(token_ids: tuple[int, ...]) -> Tensor:
    """Keys and values (1, 2, 1, tokens, 1) that tell each prefix from every other: a hash of all tokens up to here."""
    codes = [hash(token_ids[: i + 1]) % 10**6 for i in range(len(token_ids))]
    return torch.tensor(codes, dtype=torch.float32).view(1, 1, 1, -1, 1).expand(1, 2, 1, -1, 1)


def kv_from(token_ids: tuple[int, ...], start: int) -> Tensor:
    return kv_of(token_ids)[..., start:, :]


def matched(cache: PrefixCache, token_ids: tuple[int, ...]) -> Tensor:
    segments = cache.match(token_ids)
    return torch.cat(segments, dim=-2) if segments else kv_of(())


def fill(cache: PrefixCache, sequences: list[tuple[int, ...]]) -> None:
    for token_ids in sequences:
        cache.insert(token_ids, 0, partial(kv_from, token_ids))


@given(sequences=st.lists(ids, max_size=12), query=ids)
def test_without_a_limit_the_longest_common_beginning_is_found(
    sequences: list[tuple[int, ...]], query: tuple[int, ...]
) -> None:
    cache = PrefixCache(max_bytes=1 << 20, bytes_per_token=BYTES_PER_TOKEN)
    fill(cache, sequences)
    prefixes = {s[:n] for s in sequences for n in range(1, len(s) + 1)}
    longest = max((n for n in range(len(query) + 1) if query[:n] in prefixes or n == 0), default=0)
    assert torch.equal(matched(cache, query), kv_of(query)[..., :longest, :])
    assert cache.num_tokens == len(prefixes)


@given(sequences=st.lists(ids, max_size=20), query=ids, limit=st.integers(0, 15))
def test_within_a_limit_what_is_found_is_right_and_memory_is_bounded(
    sequences: list[tuple[int, ...]], query: tuple[int, ...], limit: int
) -> None:
    cache = PrefixCache(max_bytes=limit * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN)
    for token_ids in sequences:
        fill(cache, [token_ids])
        assert cache.num_tokens <= limit
        found = matched(cache, query)
        assert torch.equal(found, kv_of(query)[..., : found.shape[-2], :])


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(max_bytes=6 * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN)
    fill(cache, [(0, 0), (1, 1), (2, 2)])
    cache.match((0, 0))
    fill(cache, [(3, 3)])
    assert [matched(cache, (token, token)).shape[-2] for token in range(4)] == [2, 0, 2, 2]


def test_a_beginning_outlives_its_continuations() -> None:
    cache = PrefixCache(max_bytes=6 * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN)
    fill(cache, [(0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 3, 3)])
    assert matched(cache, (0, 0, 0, 1)).shape[-2] == 3
    assert matched(cache, (0, 0, 0, 3, 3)).shape[-2] == 5


def test_what_follows_an_evicted_beginning_is_not_stored() -> None:
    cache = PrefixCache(max_bytes=4 * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN)
    cache.insert((5, 6, 7), 2, partial(kv_from, (5, 6, 7)))
    assert cache.num_tokens == 0


def test_clear_forgets_everything() -> None:
    cache = PrefixCache(max_bytes=100, bytes_per_token=BYTES_PER_TOKEN)
    fill(cache, [(1, 2, 3)])
    cache.clear()
    assert cache.num_tokens == 0
    assert cache.match((1, 2, 3)) == []
