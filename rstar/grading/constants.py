"""Constant expressions such as `\\frac{2\\sqrt{3}}{\\pi}`, evaluated to 60 digits without computer algebra.

A small recursive-descent reader of the LaTeX that answers are made of: + - · / ^, fractions, roots, π and
parentheses. It knows no variables and no functions, and says None to anything else; then computer algebra decides.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, DecimalException, Inexact, Overflow
from enum import Enum

_DIGITS = 60
_AGREE = Decimal("1e-40")
_DIFFER = Decimal("1e-25")
_LARGE = Decimal("1e20")
_SMALL = Decimal("1e-20")
_VANISHING = Decimal("1e-36")
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
_MAX_CHARS = 300
_MAX_DEPTH = 30

_TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z])|[-+/^(){}\[\]]")
_ATOM_STARTS = ("(", "{", "\\frac", "\\sqrt", "\\pi")


class Comparison(Enum):
    """What 60 digits can tell about two constants."""

    EQUAL = 1
    DIFFERENT = 2
    UNDECIDED = 3
    """Agreeing numbers whose making went through very large or small ones, or a difference near the precision."""


class Constant:
    """A value, and whether every number on the way to it was between 1e-20 and 1e20 in size."""

    __slots__ = ("moderate", "value")

    def __init__(self, value: Decimal, moderate: bool) -> None:
        self.value = value
        self.moderate = moderate


def evaluate(text: str) -> Constant | None:
    """The value of a normalised constant expression; None if it is not one, or not a finite real number."""
    if len(text) > _MAX_CHARS:
        return None
    reader = _Reader(text)
    try:
        value = reader.sum(0)
        if reader.tokens[reader.at] != "":
            return None
        return Constant(value, reader.moderate)
    except (_NotConstant, DecimalException):
        return None


def compare(a: Constant, b: Constant) -> Comparison:
    """Compare two evaluated constants."""
    scale = max(abs(a.value), abs(b.value))
    difference = abs(_CONTEXT.subtract(a.value, b.value))
    if difference > _DIFFER * scale and scale > _SMALL:
        return Comparison.DIFFERENT
    if a.moderate and b.moderate and ((difference <= _AGREE * scale and scale > _SMALL) or scale == 0):
        return Comparison.EQUAL
    return Comparison.UNDECIDED


class _NotConstant(Exception):
    pass


_CONTEXT = Context(prec=_DIGITS, Emax=10**6, Emin=-(10**6))
_CONTEXT.traps[Overflow] = True
_CONTEXT.traps[Inexact] = False


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        for match in _TOKEN.finditer(text):
            if text[position : match.start()].strip(" "):
                break
            self.tokens.append(match[0])
            position = match.end()
        self.tokens.append("?" if text[position:].strip(" ") else "")
        self.at = 0
        self.moderate = True

    def take(self, expected: str) -> None:
        if self.tokens[self.at] != expected:
            raise _NotConstant
        self.at += 1

    def seen(self, value: Decimal) -> Decimal:
        if value and not _SMALL < abs(value) < _LARGE:
            self.moderate = False
        return value

    def sum(self, depth: int) -> Decimal:
        if depth > _MAX_DEPTH:
            raise _NotConstant
        total = self.product(depth)
        while self.tokens[self.at] in ("+", "-"):
            add = self.tokens[self.at] == "+"
            self.at += 1
            term = self.product(depth)
            total = self.seen(_CONTEXT.add(total, term) if add else _CONTEXT.subtract(total, term))
            if (
                self.moderate and abs(total) < _VANISHING
            ):  # cancelled: what is left is rounding of the 60th digit
                total = Decimal(0)
        return total

    def product(self, depth: int) -> Decimal:
        negative = False
        while self.tokens[self.at] in ("+", "-"):
            negative ^= self.tokens[self.at] == "-"
            self.at += 1
        value = self.power(depth)
        while True:
            token = self.tokens[self.at]
            if token in ("\\cdot", "\\times", "/"):
                self.at += 1
                sign = self.tokens[self.at] == "-"
                self.at += sign
                factor = self.power(depth)
                factor = -factor if sign else factor
            elif token in _ATOM_STARTS or token[:1].isdigit():
                factor = self.power(depth)
            else:
                return -value if negative else value
            value = self.seen(
                _CONTEXT.divide(value, factor) if token == "/" else _CONTEXT.multiply(value, factor)
            )

    def power(self, depth: int) -> Decimal:
        base = self.atom(depth)
        if self.tokens[self.at] != "^":
            return base
        self.at += 1
        exponent = self.braced(depth) if self.tokens[self.at] == "{" else self.atom(depth + 1)
        if base < 0 and exponent != exponent.to_integral_value():
            raise _NotConstant
        return self.seen(_CONTEXT.power(base, exponent))

    def braced(self, depth: int) -> Decimal:
        self.take("{")
        value = self.sum(depth + 1)
        self.take("}")
        return value

    def atom(self, depth: int) -> Decimal:
        token = self.tokens[self.at]
        self.at += 1
        if token[:1].isdigit() or token[:1] == ".":
            value = self.seen(Decimal(token))
            if token.isdigit() and self.tokens[self.at] == "\\frac" and self._whole_fraction():
                return self.seen(_CONTEXT.add(value, self.atom(depth + 1)))
            return value
        match token:
            case "\\pi":
                return _PI
            case "\\frac":
                top = self.braced(depth)
                return self.seen(_CONTEXT.divide(top, self.braced(depth)))
            case "\\sqrt":
                return self._root(depth)
            case "(":
                value = self.sum(depth + 1)
                self.take(")")
                return value
            case "{":
                self.at -= 1
                return self.braced(depth)
        raise _NotConstant

    def _whole_fraction(self) -> bool:
        """Whether the fraction ahead is one of two whole numbers, so that `1\\frac{1}{2}` is a mixed number."""
        shape = self.tokens[self.at + 1 : self.at + 7]
        return (
            shape[::3] == ["{", "{"] and shape[2::3] == ["}", "}"] and all(t.isdigit() for t in shape[1::3])
        )

    def _root(self, depth: int) -> Decimal:
        degree = Decimal(2)
        if self.tokens[self.at] == "[":
            self.at += 1
            degree = self.sum(depth + 1)
            self.take("]")
        radicand = self.braced(depth)
        if radicand < 0 or degree <= 0:
            raise _NotConstant
        if degree == 2:
            return self.seen(_CONTEXT.sqrt(radicand))
        return self.seen(_CONTEXT.power(radicand, _CONTEXT.divide(Decimal(1), degree)))
