"""Exact numbers and the one rule by which a decimal approximates."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.grading.numbers import Number, approximates, equal_numbers, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", "-3"),
        ("+.5", "1/2"),
        ("5.", "5"),
        (r"\frac{1}{-4}", "-1/4"),
        ("-6/4", "-3/2"),
        (r"-1\frac{1}{2}", "-3/2"),
        ("1 3/5", "8/5"),
        (r"12.5\%", "1/8"),
        (r"\frac{1}{2}\%", "1/200"),
        ("1.5e-3", "3/2000"),
        (r"1.5\times10^{3}", "1500"),
        ("9" * 1900, "9" * 1900),
    ],
)
def test_a_number_is_read_exactly(text: str, value: str) -> None:
    number = parse_number(text)
    assert number is not None
    assert number.value == Fraction(value)


@pytest.mark.parametrize(
    "text", ["", "x", "1/0", r"\frac{1}{0}", "1,2", "--1", "1e9999", "1 2", "٣", "0x10", "1_000", "nan"]
)
def test_everything_else_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@given(st.fractions(-1000, 1000, max_denominator=999), st.integers(6, 12))
def test_a_decimal_that_is_rounded_or_cut_off_after_six_digits_approximates_and_its_neighbours_do_not(
    value: Fraction, places: int
) -> None:
    ulp = Fraction(1, 10**places)
    below = value // ulp * ulp
    for steps in range(-3, 5):
        written = below + steps * ulp
        digits = len(str(abs(written * 10**places)))
        decimal = Number(written, ulp, digits)
        rounded = abs(written - value) * 2 <= ulp
        cut = abs(written) <= abs(value) and abs(written - value) < ulp
        expected = digits >= 6 and (rounded or cut)
        if digits < 15:
            assert approximates(decimal, value) == expected


@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6), st.integers(-3, 3))
def test_a_printed_float_tolerates_noise_in_its_last_digits(value: float, steps: int) -> None:
    import math

    noisy = value
    for _ in range(abs(steps)):
        noisy = math.nextafter(noisy, math.inf * steps)
    a, b = parse_number(f"{value:.17f}"), parse_number(f"{noisy:.17f}")
    assert a is not None
    assert b is not None
    assert a.digits < 15 or equal_numbers(a, b) is not False


@given(st.decimals(-(10**6), 10**6, places=4), st.integers(-300, 300).filter(bool))
def test_fault_12_no_two_decimals_but_equal_ones_are_equal(value: object, difference: int) -> None:
    first = Number(Fraction(str(value)), Fraction(1, 10**4), 10)
    second = Number(first.value + Fraction(difference, 10**4), Fraction(1, 10**4), 10)
    assert equal_numbers(first, second) is False
    assert equal_numbers(first, Number(first.value * 100, first.ulp, 12)) is (first.value == 0)
