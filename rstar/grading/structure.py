"""The shape of a normalised answer: lists, sets, tuples, intervals, unions, matrices, equations, choices, leaves.

Reading is pure text work: bounded depth, no evaluation. What a leaf means is for `compare` and, where it takes
computer algebra, for the worker. What this file does not cover: expressions that contain structures (`2(1,2)`),
which are leaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rstar.grading.units import split_unit

MAX_DEPTH = 6
MAX_ITEMS = 64
"""Longer lists and sets are leaves: pairing off members costs the square of their number."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A quantity, an expression, a relation or prose; `unit` without its marker."""

    text: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of a multiple-choice answer: `C`, `(C)`, `C.`"""

    letter: str


@dataclass(frozen=True, slots=True)
class Group:
    """Ordered members between brackets, which count: a tuple, a point, a vector, an open or closed interval."""

    opening: str
    closing: str
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """Members whose order does not count: `1, 2` (with repetition) or the set `\\{1, 2\\}` (without)."""

    items: tuple[Answer, ...]
    is_set: bool


@dataclass(frozen=True, slots=True)
class Union:
    """Intervals and sets joined by `\\cup`, in any order."""

    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of a `matrix`, `pmatrix` or `bmatrix`; `determinant` for the `vmatrix` bars; `text` is the whole of it."""

    rows: tuple[tuple[Answer, ...], ...]
    determinant: bool
    text: str


@dataclass(frozen=True, slots=True)
class Equation:
    """`name = value` with a single symbol or function on one side; `text` is the whole of it."""

    name: str
    value: Answer
    text: str


Answer = Leaf | Choice | Group | Collection | Union | Matrix | Equation

_CHOICE = re.compile(r"\(?([A-Z])(?:[.:]|\))?")
_NAME = re.compile(
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|phi|lambda|mu|rho|sigma|omega|angle[A-Za-z]{1,3}))"
    r"'?(?:_\{\w+\})?(?:\^\{-1\})?(?:\([a-z](?:,[a-z])*\))?|\([A-Za-z](?:,[A-Za-z])+\)"
)
_MATRIX = re.compile(r"\\begin\{([pv]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_MEMBER = re.compile(r"[a-z]\\in(?![a-z])\s?(?=[(\[\\])")
_TWICE = re.compile(r"[^:(\[]*[<>][^:(\[]*:([(\[][^:]*)")
"""`x<-7:(-\\infty,-7)`, as textbooks give an inequality together with its interval; the interval counts."""
_SIGNS = re.compile(r"\\pm\s?|\\mp\s?")
_BOUND = r"((?:[^<>=a-zA-Z,]|\\(?:frac|sqrt|pi|infty)(?![a-zA-Z]))+)"
_CHAIN = re.compile(rf"{_BOUND}(<=?|>=?)([a-z]){{1}}(<=?|>=?){_BOUND}")
_LEFT_VARIABLE = re.compile(rf"([a-z])(<=?|>=?){_BOUND}")
_RIGHT_VARIABLE = re.compile(rf"{_BOUND}(<=?|>=?)([a-z])")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def parse(text: str) -> Answer:
    """The structure of a normalised answer."""
    return _parse_list(text, 0)


def _parse_list(text: str, depth: int) -> Answer:
    parts = split_top_level(text, ",;") if depth < MAX_DEPTH else [text]
    if len(parts) == 1:
        return _parse_item(text, depth)
    if not all(parts) or len(parts) > MAX_ITEMS:
        return Leaf(text)
    items = [_parse_item(part, depth + 1) for part in parts]
    first = items[0]
    if isinstance(first, Equation) and all(
        item.name == first.name if isinstance(item, Equation) else isinstance(item, Leaf) for item in items
    ):  # `x=1,x=2` and `x=1,2` list the values of one name
        values = [item.value if isinstance(item, Equation) else item for item in items]
        return Equation(first.name, Collection(_flat(values), is_set=False), text)
    return Collection(_flat(items), is_set=False)


def _flat(items: list[Answer]) -> tuple[Answer, ...]:
    """The members, with those that are lists themselves (`1\\pm\\sqrt{5}`) spread out."""
    flat: list[Answer] = []
    for item in items:
        if isinstance(item, Collection) and not item.is_set:
            flat.extend(item.items)
        else:
            flat.append(item)
    return tuple(flat)


def _parse_item(text: str, depth: int) -> Answer:
    if depth >= MAX_DEPTH:
        return Leaf(text)
    if (match := _CHOICE.fullmatch(text)) is not None:
        return Choice(match[1])
    if not _has_structure(text):
        return Leaf(*split_unit(text))
    if (match := _TWICE.fullmatch(text)) is not None:
        return _parse_item(match[1], depth + 1)
    if (match := _MEMBER.match(text)) is not None:
        return _parse_item(text[match.end() :], depth + 1)
    if (match := _MATRIX.fullmatch(text)) is not None and r"\begin" not in match[2]:
        rows = [row for row in re.split(r"\\\\", match[2]) if row]
        cells = tuple(tuple(_parse_item(cell, depth + 1) for cell in row.split("&")) for row in rows)
        return Matrix(cells, determinant=match[1] == "vmatrix", text=text)
    if "=" in text and (equation := _parse_equation(text, depth)) is not None:
        return equation
    if ("<" in text or ">" in text) and (interval := _parse_inequality(text)) is not None:
        return interval
    if r"\cup" in text:
        parts = split_top_level(text.replace(r"\cup", "\0"), "\0")
        if len(parts) > 1 and all(parts):
            return Union(tuple(_parse_item(part.strip(), depth + 1) for part in parts))
    if (r"\pm" in text or r"\mp" in text) and not text.startswith(r"\{"):
        return _parse_item_with_signs(text, depth)
    return _parse_brackets(text, depth)


def _has_structure(text: str) -> bool:
    return any(
        mark in text for mark in ("=", "<", ">", "\\{", "(", "[", "\\cup", "\\pm", "\\mp", "\\begin", "\\in")
    )


def _parse_brackets(text: str, depth: int) -> Answer:
    if text.startswith(r"\{") and text.endswith(r"\}") and _encloses(text[1:]):
        inner = text[2:-2]
        variable, bar, condition = inner.partition("|")
        if bar and len(variable.removesuffix(r"\in\mathbb{R}")) == 1:
            interval = _parse_inequality(condition)
            return interval if interval is not None else Leaf(text)
        parts = split_top_level(inner, ",;")
        if not all(parts) or len(parts) > MAX_ITEMS:
            return Leaf(text)
        return Collection(_flat([_parse_item(part, depth + 1) for part in parts]), is_set=True)
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text):
        parts = split_top_level(text[1:-1], ",;")
        if len(parts) > 1 and all(parts):
            return Group(text[0], text[-1], tuple(_parse_item(part, depth + 1) for part in parts))
        if len(parts) == 1 and parts[0] and text[0] == "(" and text[-1] == ")":
            return _parse_item(parts[0], depth + 1)
    return Leaf(*split_unit(text))


def _parse_item_with_signs(text: str, depth: int) -> Answer:
    upper = _SIGNS.sub(lambda match: "+" if match[0].startswith(r"\pm") else "-", text)
    lower = _SIGNS.sub(lambda match: "-" if match[0].startswith(r"\pm") else "+", text)
    both = [_parse_item(_plain_sign(side), depth + 1) for side in (upper, lower)]
    return Collection(_flat(both), is_set=False)


def _plain_sign(text: str) -> str:
    return re.sub(r"(^|[(\[{,])\+", r"\1", text)


def _parse_equation(text: str, depth: int) -> Answer | None:
    if re.search(r"[<>]=|\\ne", text):
        return None
    parts = split_top_level(text, "=")
    if len(parts) < 2 or not all(parts):
        return None
    name, value = parts[0], parts[-1]
    if not _NAME.fullmatch(name):
        if not _NAME.fullmatch(value) or len(parts) > 2:
            return None
        name, value = value, name
    return Equation(name, _parse_item(value, depth + 1), text)


def _parse_inequality(text: str) -> Group | None:
    """`-2<=x<1`, `x>3` as an interval; None for relations that bound no single variable by constants."""
    if (match := _CHAIN.fullmatch(text)) is not None:
        low, first, _, second, high = match.groups()
        if first[0] != second[0]:
            return None
        if first[0] == ">":
            low, first, second, high = high, _FLIPPED[second], _FLIPPED[first], low
        return _interval(low, first, second, high)
    if (match := _RIGHT_VARIABLE.fullmatch(text)) is not None:
        bound, relation, _ = match.groups()
        relation = _FLIPPED[relation]
    elif (match := _LEFT_VARIABLE.fullmatch(text)) is not None:
        _, relation, bound = match.groups()
    else:
        return None
    if relation[0] == "<":
        return _interval(r"-\infty", "<", relation, bound)
    return _interval(bound, _FLIPPED[relation], "<", r"\infty")


def _interval(low: str, first: str, second: str, high: str) -> Group:
    brackets = "(" if first == "<" else "[", ")" if second == "<" else "]"
    return Group(*brackets, (Leaf(low), Leaf(high.removeprefix("+"))))


def _encloses(text: str) -> bool:
    """Whether the bracket that opens `text` is closed by its last character."""
    level = 0
    for index, character in enumerate(text):
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
            if level == 0:
                return index == len(text) - 1
    return False


def split_top_level(text: str, separators: str) -> list[str]:
    """Split at separators outside all brackets and environments; any bracket closes any, for half-open intervals."""
    if not any(separator in text for separator in separators):
        return [text]
    parts: list[str] = []
    level = start = 0
    for index, character in enumerate(text):
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
        elif level == 0 and character in separators:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts
