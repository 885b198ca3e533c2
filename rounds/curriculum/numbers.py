"""Families about whole numbers: number theory, counting, fractions. See `blocks` for the words used here."""

from __future__ import annotations

import math
from fractions import Fraction

from rounds.curriculum.blocks import MAX_VALUE, Block, Family, Maker, Quantity, idea


def _relative(make: Maker, low: int, high: int) -> tuple[Quantity, Quantity]:
    """The main number and another one that shares a factor with it."""
    a = make.main(low, high)
    common = make.divisor(a.value, 2, 30)
    b = make.literal(common.value * make.random.randint(2, 12))
    make.require(b.value != a.value)
    return a, b


@idea(Family.NUMBER_THEORY)
def greatest_common_divisor(make: Maker) -> Block:
    a, b = _relative(make, 4, MAX_VALUE)
    what = make.choose(
        f"the greatest common divisor of {a} and {b}", f"the largest number that divides {a} and {b}"
    )
    return make.block(
        what,
        math.gcd(a.value, b.value),
        make.step("common divisor", f"math.gcd({a.code}, {b})", f"math.lcm({a.code}, {b})"),
    )


@idea(Family.NUMBER_THEORY)
def least_common_multiple(make: Maker) -> Block:
    a, b = _relative(make, 4, 120)
    value = math.lcm(a.value, b.value)
    make.require(value <= MAX_VALUE)
    what = make.choose(
        f"the least common multiple of {a} and {b}", f"the smallest number that {a} and {b} divide"
    )
    return make.block(
        what, value, make.step("common multiple", f"math.lcm({a.code}, {b})", f"math.gcd({a.code}, {b})")
    )


@idea(Family.NUMBER_THEORY)
def remainder(make: Maker) -> Block:
    a = make.main(10, MAX_VALUE)
    m = make.number(3, min(29, a.value - 1))
    make.require(a.value % m.value != 0)
    what = make.choose(f"the remainder when {a} is divided by {m}", f"the rest of {a} divided by {m}")
    return make.block(what, a.value % m.value, make.step("remainder", f"{a.code} % {m}", f"{a.code} // {m}"))


@idea(Family.NUMBER_THEORY, tricky=True)
def number_of_divisors(make: Maker) -> Block:
    a = make.main(4, 999)
    what = make.choose(f"the number of divisors of {a}", f"how many numbers divide {a}")
    value = sum(a.value % j == 0 for j in range(1, a.value + 1))
    right = f"sum({a.code} % j == 0 for j in range(1, {a.code} + 1))"
    return make.block(what, value, make.step("count divisors", right, right.replace(" + 1)", ")")))


@idea(Family.NUMBER_THEORY)
def digit_sum(make: Maker) -> Block:
    a = make.main(11, MAX_VALUE)
    what = make.choose(f"the sum of the digits of {a}", f"the digit sum of {a}")
    right, wrong = f"sum(map(int, str({a.code})))", f"len(str({a.code}))"
    return make.block(what, sum(map(int, str(a.value))), make.step("add the digits", right, wrong))


@idea(Family.COUNTING)
def choose_team(make: Maker) -> Block:
    n, k = make.main(4, 14), make.number(2, 3)
    make.require(n.value > k.value)
    what = make.choose(
        f"the number of teams of {k} from {n} people", f"the number of ways to choose {k} of {n} books"
    )
    return make.block(
        what,
        math.comb(n.value, k.value),
        make.step("order does not count", f"math.comb({n.code}, {k})", f"math.perm({n.code}, {k})"),
    )


@idea(Family.COUNTING)
def award_prizes(make: Maker) -> Block:
    n, k = make.main(4, 14), make.number(2, 3)
    make.require(n.value > k.value)
    what = make.choose(
        f"the number of ways to give {k} different prizes to {n} people",
        f"the number of ways to put {k} of {n} books in a row",
    )
    return make.block(
        what,
        math.perm(n.value, k.value),
        make.step("order counts", f"math.perm({n.code}, {k})", f"math.comb({n.code}, {k})"),
    )


@idea(Family.COUNTING, tricky=True)
def handshakes(make: Maker) -> Block:
    n = make.main(4, 90)
    scene = make.choose(
        f"{n} people meet. each shakes hands with each other once.",
        f"{n} teams play. each plays each other once.",
    )
    what = make.choose("how many times that happens", "the number of such pairs")
    right, wrong = f"{n.code} * ({n.code} - 1) // 2", f"{n.code} * ({n.code} - 1)"
    return make.block(
        what, n.value * (n.value - 1) // 2, make.step("each pair once", right, wrong), scene=scene
    )


@idea(Family.COUNTING)
def outfits(make: Maker) -> Block:
    a, b, c = make.main(2, 60), make.number(2, 9), make.number(2, 9)
    what = make.choose(
        f"the number of outfits from {a} shirts, {b} hats and {c} bags",
        f"the number of meals from {a} soups, {b} salads and {c} cakes",
    )
    return make.block(
        what,
        a.value * b.value * c.value,
        make.step("choices multiply", f"{a.code} * {b} * {c}", f"{a.code} + {b} + {c}"),
    )


@idea(Family.COUNTING)
def multiples_up_to(make: Maker) -> Block:
    a = make.main(20, MAX_VALUE)
    k = make.number(3, min(25, a.value))
    what = make.choose(
        f"the number of multiples of {k} from 1 to {a}",
        f"how many numbers from 1 to {a} are multiples of {k}",
    )
    return make.block(
        what, a.value // k.value, make.step("count multiples", f"{a.code} // {k}", f"{a.code} % {k}")
    )


@idea(Family.FRACTIONS, last_only=True)
def chance(make: Maker) -> Block:
    red, blue = make.main(1, 300), make.number(2, 20)
    scene = make.choose(
        f"a bag has {red} red and {blue} blue balls.", f"in a box there are {red} red and {blue} blue balls."
    )
    what = make.choose("the chance to draw a red one", "the probability of red")
    right, wrong = f"Fraction({red.code}, {red.code} + {blue})", f"Fraction({red.code}, {blue})"
    return make.block(
        what, Fraction(red.value, red.value + blue.value), make.step("red of all", right, wrong), scene=scene
    )


@idea(Family.FRACTIONS, last_only=True, tricky=True)
def part_left(make: Maker) -> Block:
    whole = make.main(4, 999)
    eaten = make.number(1, min(40, whole.value - 1))
    scene = make.choose(f"of {whole} cakes, {eaten} are eaten.", f"{eaten} of {whole} pages are read.")
    what = make.choose("the fraction that is left", "the part that is left")
    right, wrong = f"Fraction({whole.code} - {eaten}, {whole.code})", f"Fraction({eaten}, {whole.code})"
    return make.block(
        what,
        Fraction(whole.value - eaten.value, whole.value),
        make.step("left of all", right, wrong),
        scene=scene,
    )


@idea(Family.FRACTIONS)
def fraction_of(make: Maker) -> Block:
    whole = make.main(6, 2000)
    q = make.divisor(whole.value, 3, 9)
    p = make.number(2, q.value - 1)
    what = make.choose(f"{p}/{q} of {whole}", f"the part {p}/{q} of {whole}")
    return make.block(
        what,
        whole.value * p.value // q.value,
        make.step("part of it", f"{whole.code} * {p} // {q}", f"{whole.code} * {q} // {p}"),
    )
