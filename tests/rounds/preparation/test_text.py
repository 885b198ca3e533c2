"""Normalisation drops dressing and keeps mathematics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.preparation.text import normalised, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $2+2$?", "what is 2 + 2"),
        (r"Simplify \dfrac{1}{2}.", r"simplify  $\frac{1}{2}$"),
        (r"Find \(x^{2}\)", "find x^2"),
        (r"Let $f\left(x\right)=\, 3$. Find f(3).", "Let f(x) = 3 find f(3)"),
        ("café", "cafe\u0301"),
        ("A\tB\nC", "a b c"),
    ],
)
def test_dressing_makes_no_other_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 3 + 4", "Compute 3 - 4"),
        ("Compute 1.5", "Compute 15"),
        ("Compute 12 3", "Compute 1 23"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        ("Find f'(x)", "Find f(x)"),
        ("Compute 5!", "Compute 5"),
        ("x^{12}", "x^{1}2"),
        ("ratio 3:4", "ratio 34"),
        (r"the set \{1\}", "the set 1"),
    ],
)
def test_other_mathematics_is_another_question(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@given(st.text(max_size=60))
def test_normalising_twice_changes_no_more_for_words_and_digits(text: str) -> None:
    assert words(normalised(text)) == words(normalised(normalised(text)))


def test_words_are_runs_of_letters_and_runs_of_digits() -> None:
    assert words(r"Let 3x^2 = \frac{12}{y_1}; it's X.") == [
        "let",
        "3",
        "x",
        "2",
        "frac",
        "12",
        "y",
        "1",
        "it",
        "s",
        "x",
    ]
