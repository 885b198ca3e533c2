"""Numbers as they are written: exact rationals, with the precision that a decimal claims.

Equality is exact first. A decimal is an approximation only of something that is not written as a decimal, by the
rule of `approximates`; two decimals are never rounded to meet each other. Nothing here knows factors of 100 but the
percent sign itself, which is exactly 1/100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MIN_DIGITS = 6
"""Significant digits that a decimal needs to stand for another number [ours]."""
FLOAT_DIGITS = 15
"""From here on a decimal is taken for a printed 64-bit float, whose last digits are rounding noise."""
FLOAT_NOISE = Fraction(1, 10**12)
"""Relative error allowed to such a float."""
MAX_EXPONENT = 999

_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(
    rf"([+-]?)({_UNSIGNED})(?:(?:[eE]|\\(?:times|cdot)10\^)\{{?([+-]?\d{{1,3}})\}}?)?(\\%)?", re.ASCII
)
_FRACTION = re.compile(
    rf"([+-]?)\\frac\{{([+-]?{_UNSIGNED})\}}\{{([+-]?{_UNSIGNED})\}}(\\%)?"
    rf"|([+-]?)({_UNSIGNED})/([+-]?{_UNSIGNED})(\\%)?",
    re.ASCII,
)
_MIXED = re.compile(r"([+-]?)(\d+)(?:\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))(\\%)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value. `ulp` is the value of the last digit of a decimal with a point or an exponent, None for
    integers and fractions; `digits` counts the significant digits of such a decimal."""

    value: Fraction
    ulp: Fraction | None = None
    digits: int = 0


def parse_number(text: str) -> Number | None:
    """Read a normalised answer without unit as a number; None if it is anything else."""
    if (match := _PLAIN.fullmatch(text)) is not None:
        sign, digits, exponent, percent = match.groups()
        return _decimal(sign, digits, int(exponent or 0), exponent is not None, percent is not None)
    if (match := _FRACTION.fullmatch(text)) is not None:
        sign, numerator, denominator, percent = match.groups()[:4] if match[2] else match.groups()[4:]
        if not (bottom := Fraction(denominator)):
            return None
        return Number(_signed(sign, Fraction(numerator) / bottom) / (100 if percent else 1))
    if (match := _MIXED.fullmatch(text)) is not None:
        sign, whole, top, bottom_text, top_plain, bottom_plain, percent = match.groups()
        if not (bottom := Fraction(bottom_text or bottom_plain)):
            return None
        value = int(whole) + Fraction(top or top_plain) / bottom
        return Number(_signed(sign, value) / (100 if percent else 1))
    return None


def _decimal(sign: str, digits: str, exponent: int, scientific: bool, percent: bool) -> Number:
    whole, point, places = digits.partition(".")
    exponent -= len(places) + (2 if percent else 0)
    mantissa = int(f"{whole}{places}")
    ulp = Fraction(10) ** exponent
    value = _signed(sign, mantissa * ulp)
    if not point and not scientific:
        return Number(value)
    return Number(value, ulp, len(str(mantissa)) if mantissa else 0)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def equal_numbers(a: Number, b: Number) -> bool | None:
    """True: exactly equal. None: one approximates the other. False: different."""
    if a.value == b.value:
        return True
    return (
        None if approximates(a, b.value, b.ulp is None) or approximates(b, a.value, a.ulp is None) else False
    )


def approximates(decimal: Number, value: Fraction, value_is_exact: bool = True) -> bool:
    """Whether `decimal` is `value` rounded or cut off to its last written place, with at least `MIN_DIGITS`
    significant digits; or a printed float that misses `value` only by noise (this also between two decimals)."""
    if decimal.ulp is None:
        return False
    error = abs(decimal.value - value)
    if decimal.digits >= FLOAT_DIGITS and error <= FLOAT_NOISE * abs(value):
        return True
    if not value_is_exact or decimal.digits < MIN_DIGITS:
        return False
    cut_off = abs(decimal.value) <= abs(value) and error < decimal.ulp
    return cut_off or 2 * error <= decimal.ulp
