"""The edit-distance question against the textbook table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppm.edit_distance import differ_by


def naive_distance(one: str, other: str) -> int:
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (a != b)))
    return row[-1]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abcdef", "azced", 3),
        ("intention", "execution", 5),
    ],
)
def test_hand_worked_distances(one: str, other: str, distance: int) -> None:
    assert naive_distance(one, other) == distance
    for num_edits in range(10):
        assert differ_by(one, other, num_edits) == (distance >= num_edits)
        assert differ_by(other, one, num_edits) == (distance >= num_edits)


letters = st.text("abc", max_size=24)


@given(one=letters, other=letters)
def test_every_threshold_is_answered_as_by_the_table(one: str, other: str) -> None:
    distance = naive_distance(one, other)
    assert [differ_by(one, other, n) for n in range(26)] == [distance >= n for n in range(26)]


@given(
    start=st.text(max_size=80),
    one=letters,
    middle=st.text(max_size=60),
    other=letters,
    end=st.text(max_size=80),
)
def test_edited_texts_of_any_characters_longer_than_a_machine_word(
    start: str, one: str, middle: str, other: str, end: str
) -> None:
    before, after = start + one + middle + end, start + middle + other + end
    distance = naive_distance(before, after)
    for num_edits in (1, distance, distance + 1, 20):
        assert differ_by(before, after, num_edits) == (distance >= num_edits)
