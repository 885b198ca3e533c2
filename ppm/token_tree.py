"""Several token sequences as one: a tree of tokens in which sequences share what they have in common at their start.

Laid out in a row, depth first, a token's descendants follow it without a gap. So one number per token, the end of its
subtree, says who may see it, and each token's position is the one that it has in its own sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens in depth-first order, lists of one length."""

    token_ids: list[int]
    positions: list[int]
    """Of a token in each sequence that it belongs to, from 0."""
    subtree_ends: list[int]
    """Index after the last descendant: token i sees token j if and only if j <= i < subtree_ends[j]."""
    last_tokens: list[int]
    """Index of the last token of each sequence, in the order in which the sequences were given."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def path(self, sequence: int) -> list[int]:
        """Indices of all tokens of a sequence, in its order."""
        last = self.last_tokens[sequence]
        return [token for token in range(last + 1) if last < self.subtree_ends[token]]


def token_tree(sequences: Sequence[tuple[int, ...]]) -> TokenTree:
    """The tree of sequences, none of which is empty. Equal ones coincide."""
    token_ids: list[int] = []
    positions: list[int] = []
    subtree_ends: list[int] = []
    last_tokens = [0] * len(sequences)
    path: list[int] = []  # tokens of the sequence before
    before: tuple[int, ...] = ()
    for index in sorted(
        range(len(sequences)), key=lambda index: sequences[index]
    ):  # neighbours share the most
        sequence = sequences[index]
        assert sequence, "a sequence has a token"
        shared = common_start(before, sequence)
        for token in path[shared:]:
            subtree_ends[token] = len(token_ids)
        start = len(token_ids)
        num_new = len(sequence) - shared
        path[shared:] = range(start, start + num_new)
        token_ids += sequence[shared:]
        positions += range(shared, len(sequence))
        subtree_ends += [0] * num_new
        last_tokens[index] = path[-1]
        before = sequence
    for token in path:
        subtree_ends[token] = len(token_ids)
    return TokenTree(token_ids, positions, subtree_ends, last_tokens)


def common_start(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])
