"""Building blocks of curriculum problems: one idea, put in words, with the code that carries it out.

A problem is a chain of blocks, each naming a quantity that later blocks may refer to. A `Maker` hands an idea its
numbers, its name and, in a chain, the quantity that it must build on. What this file does not cover: the ideas
(the family modules), and how blocks become a problem (`generator`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from random import Random

LETTERS = "bcdfghkmnpqrstuvwxyz"
"""Names of quantities. Vowels are left out: "a" and "i" are words."""
PEOPLE = (
    "ana",
    "ben",
    "cleo",
    "dan",
    "eva",
    "finn",
    "gus",
    "hana",
    "ivy",
    "jon",
    "kim",
    "leo",
    "mia",
    "ned",
    "tom",
    "zoe",
)
THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "cups",
    "eggs",
    "kites",
    "marbles",
    "nuts",
    "pens",
    "shells",
    "stamps",
)
ANSWER = "ans"
"""The variable of a quantity that the question asks for without naming it."""
NAMED_SHARE = 0.3
"""Share of last quantities that get a name and are asked for by it."""
MAX_VALUE = 5000
"""Bound on every value, so that chains stay readable."""
MAX_START = 99
"""Bound on the number that a chain starts from: a small model copies two digits more surely than four."""


class Family(StrEnum):
    """What a problem is about."""

    QUANTITIES = "quantities"
    """Who has how many: chained comparisons, gains and losses."""
    RATES = "rates"
    """Speeds, prices, machines."""
    PERCENTAGES = "percentages"
    """Shares, discounts, growth."""
    EQUATIONS = "equations"
    """One unknown, undone step by step."""
    SYSTEMS = "systems"
    """Two unknowns with two conditions."""
    NUMBER_THEORY = "number theory"
    """Divisors, multiples, remainders, digits."""
    COUNTING = "counting"
    """Choices, orders, pairs, codes."""
    SEQUENCES = "sequences"
    """Arithmetic and geometric ones: terms and sums."""
    GEOMETRY = "geometry"
    """Lengths, areas, volumes."""
    AVERAGES = "averages"
    """Means, missing values, medians."""
    AGES = "ages"
    """Who was, is and will be how old."""
    FRACTIONS = "fractions"
    """Parts of a whole and simple probability; answers are fractions."""


class Unfit(Exception):
    """An idea cannot use what it was given (a value out of its range, no divisor); the caller draws again."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as the question says it (`text`: "84", "n" or "tom's total"), as code has it, and its value.
    `person` is whose it is, if anyone's."""

    text: str
    code: str
    value: int
    person: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class CodeStep:
    """One reasoning step: a comment, one or two lines of Python, and the usual misconception about it (never equal
    to `code`; empty where there is none)."""

    comment: str
    code: str
    misconception: str = ""

    @property
    def variable(self) -> str:
        """What the last line assigns."""
        return self.code.rpartition("\n")[2].partition(" = ")[0]


@dataclass(frozen=True, slots=True)
class Block:
    """One idea in words and code. `text` states it, or asks for it if it is the problem's last. Running the
    `steps` leaves `value` in `variable`; `person` is whose it is, if anyone's."""

    text: str
    steps: tuple[CodeStep, ...]
    value: int | Fraction
    person: str = ""

    @property
    def variable(self) -> str:
        """What holds the value."""
        return self.steps[-1].variable

    def quantity(self) -> Quantity:
        """What the next block may build on. The value must be an integer."""
        assert isinstance(self.value, int)
        text = f"{self.person}'s total" if self.person else self.variable
        return Quantity(text, self.variable, self.value, self.person)


Build = Callable[["Maker"], Block]


@dataclass(frozen=True, slots=True)
class Idea:
    """A way to make a block. `last_only`: its value is no integer, nothing can follow. `tricky`: beginners mostly hold
    its misconception."""

    name: str
    family: Family
    build: Build
    last_only: bool = False
    tricky: bool = False


IDEAS: list[Idea] = []
"""Every idea, in the order of the family modules; filled by `idea`."""


def idea(family: Family, *, last_only: bool = False, tricky: bool = False) -> Callable[[Build], Build]:
    """Register a builder under its function's name."""

    def register(build: Build) -> Build:
        IDEAS.append(Idea(build.__name__, family, build, last_only, tricky))
        return build

    return register


class Maker:
    """What an idea builds with: seeded choices, names not used before, and the chain's previous quantity.

    `given` is that quantity (None: the block starts a chain). `asked`: the block is the problem's last one. `things`
    is what people have in this problem, always in the plural.
    """

    def __init__(
        self, random: Random, used: set[str], things: str, given: Quantity | None, *, asked: bool
    ) -> None:
        self.random = random
        self.things = things
        self.given = given
        self.asked = asked
        self._used = used
        self.named = not asked or random.random() < NAMED_SHARE
        self.name = self._fresh(LETTERS) if self.named else ANSWER

    def _fresh(self, names: Sequence[str]) -> str:
        name = self.random.choice([name for name in names if name not in self._used])
        self._used.add(name)
        return name

    def person(self) -> str:
        """A name that the problem has not used."""
        return self._fresh(PEOPLE)

    def choose(self, *texts: str) -> str:
        """One of several wordings."""
        return self.random.choice(texts)

    def literal(self, value: int) -> Quantity:
        """A number that the question spells out."""
        return Quantity(str(value), str(value), value)

    def number(self, low: int, high: int) -> Quantity:
        """A literal in [low, high]."""
        return self.literal(self.random.randint(low, high))

    def main(self, low: int, high: int) -> Quantity:
        """The chain's previous quantity, or a literal if there is none. Raises Unfit if it is not in [low, high]."""
        if self.given is None:
            return self.number(low, min(high, MAX_START))
        self.require(low <= self.given.value <= high)
        return self.given

    def divisor(self, of: int, low: int, high: int) -> Quantity:
        """A literal divisor of `of` in [low, high]. Raises Unfit if there is none."""
        divisors = [value for value in range(low, high + 1) if of % value == 0]
        self.require(bool(divisors))
        return self.literal(self.random.choice(divisors))

    def require(self, condition: bool) -> None:
        """Raises Unfit unless `condition`."""
        if not condition:
            raise Unfit

    def step(self, comment: str, expression: str, misconception: str = "", *, variable: str = "") -> CodeStep:
        """A step that assigns `expression` to `variable` (default: the block's name)."""
        target = variable or self.name
        lines = "import math\n" if "math." in expression else ""
        if "Fraction(" in expression:
            lines = "from fractions import Fraction\n"
        wrong = f"{lines}{target} = {misconception}" if misconception else ""
        return CodeStep(f"{target}: {comment}", f"{lines}{target} = {expression}", wrong)

    def block(self, what: str, value: int | Fraction, *steps: CodeStep, scene: str = "") -> Block:
        """A block whose quantity has a noun phrase: `scene` sets it up, `what` names it ("the area")."""
        if self.named:
            told = self.choose(
                f"let {self.name} be {what}.", f"{self.name} is {what}.", f"write {self.name} for {what}."
            )
            if self.asked:
                told += self.choose(f" what is {self.name}?", f" find {self.name}.")
        else:
            told = self.choose(f"what is {what}?", f"find {what}.", f"compute {what}.", f"work out {what}.")
        text = f"{scene} {told}" if scene else told
        return Block(text, steps, value)

    def story(self, text: str, person: str, value: int, *steps: CodeStep, ask: str = "") -> Block:
        """A block about what `person` has, under that name; the question follows if the block is the last one."""
        if self.asked:
            had = ask or self.choose(
                f"how many {self.things} does {person} have?",
                f"find the number of {self.things} {person} has.",
            )
            text = f"{text} {had}"
        return Block(text, steps, value, person)
