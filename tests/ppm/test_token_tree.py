"""Token trees against the sequences that they hold, and by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ppm.token_tree import common_start, token_tree

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=10)


def test_hand_worked_tree() -> None:
    """Prefix 5 6, then 7 or 8 9; the prefix alone; and a stranger."""
    tree = token_tree([(5, 6, 8, 9), (5, 6, 7), (5, 6), (4,)])
    assert tree.token_ids == [4, 5, 6, 7, 8, 9]
    assert tree.positions == [0, 0, 1, 2, 2, 3]
    assert tree.subtree_ends == [1, 6, 6, 4, 6, 6]
    assert tree.last_tokens == [5, 3, 2, 0]


@given(given_sequences=sequences)
def test_each_sequences_last_token_sees_that_sequence_and_nothing_else(
    given_sequences: list[tuple[int, ...]],
) -> None:
    tree = token_tree(given_sequences)
    for index, (sequence, last) in enumerate(zip(given_sequences, tree.last_tokens, strict=True)):
        seen = [j for j in range(last + 1) if last < tree.subtree_ends[j]]
        assert tuple(tree.token_ids[j] for j in seen) == sequence
        assert tree.path(index) == seen
        assert [tree.positions[j] for j in seen] == list(range(len(sequence)))


@given(given_sequences=sequences)
def test_every_distinct_start_is_one_token(given_sequences: list[tuple[int, ...]]) -> None:
    starts = {sequence[:end] for sequence in given_sequences for end in range(1, len(sequence) + 1)}
    assert len(token_tree(given_sequences)) == len(starts)


@given(pair=st.tuples(*[st.lists(st.integers(0, 1), max_size=6).map(tuple)] * 2))
def test_common_start_equals_the_naive_count(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    one, other = pair
    longest = max(n for n in range(7) if one[:n] == other[:n] and n <= min(len(one), len(other)))
    assert common_start(one, other) == longest
