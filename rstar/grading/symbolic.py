"""Computer algebra on two expressions: the part of grading that may never end. Imported by workers only.

Reading is the LaTeX grammar of math-verify (latex2sympy2_extended) on the whole text: no extraction from prose, and
case counts. Comparing is ours where the leniencies of `math_verify.verify` would accept what differs (9 % = 9,
e = E, abc = ABC, a tuple = a set, equations without solution): by value at fixed points to 100 digits. `verify` judges
what has no value: sets and matrices inside expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped]
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import verify

from rstar.seeds import rng

_DIGITS = 120
_AGREE = sympy.Float("1e-100", _DIGITS)
_NUM_POINTS = 6
_AS_WRITTEN = NormalizationConfig(
    basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(
    interpret_as_mixed_fractions=True,
    interpret_simple_eq_as_assignment=False,
    interpret_contains_as_eq=False,
    lowercase_symbols=False,
)
_INTEGER_FUNCTIONS = (sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Sum, sympy.Product)
_RELATIONS = {"<=": r"\leq ", ">=": r"\geq "}


class UnreadableError(Exception):
    """A text is not an expression or relation that the grammar knows."""


def equal_expressions(a: str, b: str) -> bool:
    """Whether two normalised leaf texts mean the same. Raises UnreadableError naming the text that cannot be read."""
    return _equal(read(a), read(b))


@lru_cache(maxsize=512)
def read(text: str) -> Any:
    """A sympy object for a normalised text, or a tuple of relations; decimals become exact rationals, i the
    imaginary unit."""
    for written, command in _RELATIONS.items():
        text = text.replace(written, command)
    if re.search(r",|;|\\unit|\?", text):
        raise UnreadableError(f"{text[:60]!r} is not one expression")
    try:
        parsed = latex2sympy(text, normalization_config=_AS_WRITTEN, conversion_config=_CONVERSION)
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if relations := _relations(parsed):
            return tuple(_exact(relation) for relation in relations)
        if isinstance(parsed, sympy.Basic):
            return _exact(parsed)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableError(f"{text[:60]!r} cannot be read") from error
    if isinstance(parsed, sympy.MatrixBase):
        return parsed
    raise UnreadableError(f"{text[:60]!r} is not one expression")


def _exact(parsed: Any) -> Any:
    exact = {number: sympy.Rational(str(number)) for number in parsed.atoms(sympy.Float)}
    return parsed.xreplace(exact).subs(sympy.Symbol("i"), sympy.I)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) or isinstance(b, tuple):
        if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
            return False
        pairs = [[_equal_relations(one, other) for other in b] for one in a]
        return all(any(row) for row in pairs) and all(any(column) for column in zip(*pairs, strict=True))
    if matrices := _matrices(a, b):
        one, other = matrices
        return one.shape == other.shape and all(map(_equal, one.flat(), other.flat()))
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return a == b or _equal_values(a, b)
    if isinstance(a, sympy.Expr) != isinstance(b, sympy.Expr):
        return False
    return bool(verify(a, b, timeout_seconds=None) and verify(b, a, timeout_seconds=None))


def _matrices(a: Any, b: Any) -> list[Any]:
    """Both sides as explicit matrices; empty if one is none."""
    kinds = sympy.MatrixBase | sympy.MatrixExpr
    if not (isinstance(a, kinds) and isinstance(b, kinds)):
        return []
    explicit = [
        side.doit() if isinstance(side, sympy.MatrixBase) else side.doit().as_explicit() for side in (a, b)
    ]
    return explicit if all(isinstance(side, sympy.MatrixBase) for side in explicit) else []


def _relations(parsed: Any) -> list[Any]:
    """The relation, or those of a chain `a < b <= c`; empty for an expression."""
    if isinstance(parsed, sympy.core.relational.Relational):
        return [parsed]
    if isinstance(parsed, sympy.And) or type(parsed).__name__ == "And":
        parts = [_relations(part) for part in parsed.args]
        return [relation for part in parts for relation in part] if all(parts) else []
    return []


def _equal_relations(a: Any, b: Any) -> bool:
    """Whether `a` and `b` are the same relation up to a constant factor (positive where the sides are not to swap)."""
    kinds = {sympy.Lt: sympy.Gt, sympy.Le: sympy.Ge}
    flip_a, flip_b = type(a) in kinds, type(b) in kinds
    if kinds.get(type(a), type(a)) is not kinds.get(type(b), type(b)):
        return False
    left, right = (-1 if flip_a else 1) * (a.lhs - a.rhs), (-1 if flip_b else 1) * (b.lhs - b.rhs)
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    ratios = [
        value / other for value, other in _values(left, right) if abs(other) > _AGREE and abs(value) > _AGREE
    ]
    if not ratios or any(abs(ratio - ratios[0]) > _AGREE * abs(ratios[0]) for ratio in ratios):
        return False
    if not (left.free_symbols or right.free_symbols):
        return False
    return isinstance(a, sympy.Eq | sympy.Ne) or bool(sympy.re(ratios[0]) > 0)


def _equal_values(a: Any, b: Any) -> bool:
    """Whether two expressions agree wherever both have a value: at fixed points of both signs, to 100 digits."""
    if not (a.free_symbols or b.free_symbols) and (difference := (a - b).doit()).is_Rational:
        return bool(difference == 0)
    seen = False
    for value, other in _values(a, b):
        scale = max(abs(value), abs(other))
        if abs(value - other) > _AGREE * scale and scale > _AGREE:
            return False
        seen = True
    return seen or bool(sympy.simplify(a - b) == 0)


def _values(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    symbols = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: str(symbol.name))
    if not symbols and any(expression in (sympy.oo, -sympy.oo, sympy.zoo) for expression in (a, b)):
        return
    whole = any(expression.has(*_INTEGER_FUNCTIONS) for expression in (a, b))
    for point in range(_NUM_POINTS if symbols else 1):
        draw = rng(0, "grading", point)
        at = {}
        for symbol in symbols:
            size = draw.randint(2, 12) if whole else sympy.Rational(draw.randint(301, 2699), 1000)
            at[symbol] = size if whole or point < _NUM_POINTS // 2 else size * draw.choice((1, -1))
        values = [_value(expression, at) for expression in (a, b)]
        if values[0] is not None and values[1] is not None:
            yield values[0], values[1]


def _value(expression: Any, at: dict[Any, Any]) -> Any | None:
    """The complex number that an expression is at a point; None if it has no finite value there."""
    value = expression.subs(at, simultaneous=True).doit().evalf(_DIGITS)
    if not getattr(value, "is_number", False) or value.has(sympy.nan, sympy.oo, -sympy.oo, sympy.zoo):
        return None
    return value if value.is_finite is not False else None
