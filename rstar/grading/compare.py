"""Equality of two structures, three-valued: True, False, or None where only computer algebra can tell.

The parent process calls this with what pure Python decides; a worker calls the same code with computer algebra for
the leaves that are left. The rules are those of docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rstar.grading import constants
from rstar.grading.numbers import Number, approximates, equal_numbers, parse_number
from rstar.grading.structure import Answer, Collection, Equation, Group, Leaf, Matrix, Union

Decide = Callable[[str, str], bool | None]
"""Computer algebra on two leaf texts; in the parent always None."""

_PROSE = re.compile(r"(?<![\\A-Za-z])(?!arcsin|arccos|arctan|arccot|sinh|cosh|tanh|infty)[A-Za-z]{4,}")
_SHORT_PROSE = frozenset(["yes", "no", "odd", "even", "true", "false", "all", "none"])
_BASED = re.compile(r"([0-9A-Za-z]+)_\{(\d+)\}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+")


@dataclass(slots=True)
class Comparison:
    """One comparison under way; notes how equality was found."""

    decide: Decide
    approximate: bool = False
    symbolic: bool = False

    def equal(self, a: Answer, b: Answer) -> bool | None:
        """Whether two answers are equal; symmetric."""
        if a == b:
            return True
        if isinstance(a, Equation) or isinstance(b, Equation):
            return self._equations(a, b)
        if isinstance(a, Leaf) and isinstance(b, Leaf):
            return self._leaves(a, b)
        if isinstance(a, Collection) and isinstance(b, Collection):
            return self._collections(a, b)
        if isinstance(a, Collection) or isinstance(b, Collection):
            collection, single = (a, b) if isinstance(a, Collection) else (b, a)
            assert isinstance(collection, Collection)
            if isinstance(single, Union) and _are_rays(collection):
                return self._any_order(collection.items, single.items)
            return self.equal(collection.items[0], single) if len(collection.items) == 1 else False
        if isinstance(a, Group) and isinstance(b, Group):
            if (a.opening, a.closing) != (b.opening, b.closing):
                return False
            return self._in_order(a.items, b.items)
        if isinstance(a, Union) and isinstance(b, Union):
            return self._any_order(a.items, b.items)
        if isinstance(a, Matrix) and isinstance(b, Matrix):
            return self._matrices(a, b)
        if isinstance(a, Matrix | Leaf) and isinstance(b, Matrix | Leaf):  # `2\begin{pmatrix}…` is a leaf
            return self._asked(a.text, b.text) if r"\begin" in a.text and r"\begin" in b.text else False
        return False

    def _equations(self, a: Answer, b: Answer) -> bool | None:
        if isinstance(a, Equation) and isinstance(b, Equation):
            if a.name == b.name:
                return self.equal(a.value, b.value)
            if _is_constant(a.value) or _is_constant(b.value):
                return False
            return self._asked(a.text, b.text)
        equation, other = (a, b) if isinstance(a, Equation) else (b, a)
        assert isinstance(equation, Equation)
        if isinstance(other, Leaf) and any(relation in other.text for relation in "=<>"):
            return self._asked(equation.text, other.text)
        return self.equal(equation.value, other)

    def _matrices(self, a: Matrix, b: Matrix) -> bool | None:
        if a.determinant != b.determinant or [len(row) for row in a.rows] != [len(row) for row in b.rows]:
            return False
        cells_a = [cell for row in a.rows for cell in row]
        return self._in_order(cells_a, [cell for row in b.rows for cell in row])

    def _in_order(self, a: Sequence[Answer], b: Sequence[Answer]) -> bool | None:
        if len(a) != len(b):
            return False
        undecided = False
        for one, other in zip(a, b, strict=True):
            match self.equal(one, other):
                case False:
                    return False
                case None:
                    undecided = True
        return None if undecided else True

    def _collections(self, a: Collection, b: Collection) -> bool | None:
        if not (a.is_set or b.is_set):
            return self._any_order(a.items, b.items)
        table = [[self.equal(one, other) for other in b.items] for one in a.items]
        lines = [*table, *([row[column] for row in table] for column in range(len(b.items)))]
        if any(all(cell is False for cell in line) for line in lines):
            return False
        return True if all(any(line) for line in lines) else None

    def _any_order(self, a: Sequence[Answer], b: Sequence[Answer]) -> bool | None:
        """Whether the members can be paired off: a perfect matching of the sure pairs, or of the possible ones."""
        if len(a) != len(b):
            return False
        table = [[self.equal(one, other) for other in b] for one in a]
        if _has_matching([[cell is True for cell in row] for row in table]):
            return True
        return None if _has_matching([[cell is not False for cell in row] for row in table]) else False

    def _leaves(self, a: Leaf, b: Leaf) -> bool | None:
        if a.unit and b.unit and a.unit != b.unit:
            return False
        if a.text == b.text:
            return True
        number_a, number_b = parse_number(a.text), parse_number(b.text)
        if number_a is not None and number_b is not None:
            if (exactly := equal_numbers(number_a, number_b)) is None:
                self.approximate = True
            return exactly is not False
        prose_a, prose_b = _prose(a.text), _prose(b.text)
        if prose_a or prose_b:
            return prose_a == prose_b
        for mark in (":", "_based"):
            if (decided := self._written(a.text, b.text, mark)) is not None:
                return decided
        constant_a, constant_b = constants.evaluate(a.text), constants.evaluate(b.text)
        if constant_a is not None and constant_b is not None:
            if self._approximate(number_a, constant_b) or self._approximate(number_b, constant_a):
                self.approximate = True
                return True
            match constants.compare(constant_a, constant_b):
                case constants.Comparison.EQUAL:
                    return True
                case constants.Comparison.DIFFERENT:
                    return False
        return self._asked(a.text, b.text)

    def _written(self, a: str, b: str, mark: str) -> bool | None:
        """Ratios and times (`3:4`), and numerals of another base (`52_{8}`), are compared as they are written."""
        if mark == ":":
            if (":" in a) != (":" in b):
                return False
            if ":" not in a:
                return None
            parts_a, parts_b = a.split(":"), b.split(":")
            numbers = [[parse_number(part) is not None for part in parts] for parts in (parts_a, parts_b)]
            if numbers[0] != numbers[1]:
                return False
            return self._in_order([Leaf(part) for part in parts_a], [Leaf(part) for part in parts_b])
        based = _BASED.fullmatch(a), _BASED.fullmatch(b)
        if not any(match is not None and match[1][0].isdigit() for match in based):
            return None
        return False

    def _approximate(self, decimal: Number | None, constant: constants.Constant) -> bool:
        return decimal is not None and approximates(decimal, Fraction(constant.value))

    def _asked(self, a: str, b: str) -> bool | None:
        answer = self.decide(a, b)
        if answer:
            self.symbolic = True
        return answer


def _are_rays(collection: Collection) -> bool:
    """Whether a list came from inequalities: `x<-1 or x>3` is the union of two intervals, `(1,2),(3,4)` two points."""
    return not collection.is_set and all(
        isinstance(item, Group) and any(isinstance(end, Leaf) and "infty" in end.text for end in item.items)
        for item in collection.items
    )


def _is_constant(answer: Answer) -> bool:
    return isinstance(answer, Leaf) and constants.evaluate(answer.text) is not None


def _prose(text: str) -> str:
    """The letters of a text in words, in lower case; empty for mathematics."""
    plain = _COMMAND.sub(" ", text) if "\\" in text else text
    if _PROSE.search(plain) is None and text.lower() not in _SHORT_PROSE:
        return ""
    return re.sub(r"[\s\\{}_'.,-]", "", text).lower()


def _has_matching(possible: list[list[bool]]) -> bool:
    """Whether rows and columns can be paired one to one (augmenting paths)."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, allowed in enumerate(possible[row]):
            if allowed and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(possible)))
