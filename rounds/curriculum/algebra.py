"""Algebra families: equations, systems, sequences. See `blocks` for the words used here."""

from __future__ import annotations

from rounds.curriculum.blocks import MAX_VALUE, Block, Family, Maker, idea


@idea(Family.EQUATIONS)
def linear_plus(make: Maker) -> Block:
    total = make.main(9, 2000)
    k = make.number(2, 9)
    shift = make.literal(make.random.randint(1, 40) // k.value * k.value + total.value % k.value)
    make.require(0 < shift.value < total.value)
    solution = (total.value - shift.value) // k.value
    what = make.choose(
        f"the solution of {k} * y + {shift} = {total}",
        f"the number for which {k} times it plus {shift} is {total}",
    )
    right, wrong = f"({total.code} - {shift}) // {k}", f"({total.code} + {shift}) // {k}"
    return make.block(what, solution, make.step("undo plus, then times", right, wrong))


@idea(Family.EQUATIONS)
def linear_minus(make: Maker) -> Block:
    total = make.main(3, 2000)
    k = make.number(2, 9)
    shift = make.literal(make.random.randint(1, 40) // k.value * k.value + -total.value % k.value)
    make.require(shift.value > 0)
    solution = (total.value + shift.value) // k.value
    what = make.choose(
        f"the solution of {k} * y - {shift} = {total}",
        f"the number for which {k} times it minus {shift} is {total}",
    )
    right, wrong = f"({total.code} + {shift}) // {k}", f"({total.code} - {shift}) // {k}"
    return make.block(what, solution, make.step("undo minus, then times", right, wrong))


@idea(Family.EQUATIONS, tricky=True)
def think_of_a_number(make: Maker) -> Block:
    end = make.main(5, 500)
    k = make.number(2, 9)
    shift = make.number(1, min(40, end.value - 1))
    who = make.person()
    scene = make.choose(
        f"{who} thinks of a number, divides it by {k}, adds {shift} and gets {end}.",
        f"{who} divides a number by {k} and adds {shift}. the result is {end}.",
    )
    right, wrong = f"({end.code} - {shift}) * {k}", f"{end.code} * {k} - {shift}"
    return make.block(
        make.choose("the number", f"{who}'s number"),
        (end.value - shift.value) * k.value,
        make.step("go back", right, wrong),
        scene=scene,
    )


@idea(Family.SYSTEMS)
def sum_and_difference(make: Maker) -> Block:
    total = make.main(6, 2000)
    gap = make.literal(2 * make.random.randint(1, min(20, (total.value - 2) // 2)) - total.value % 2)
    make.require(gap.value > 0)
    larger = make.choose("larger", "smaller") == "larger"
    sign, other = ("+", "-") if larger else ("-", "+")
    value = (total.value + (gap.value if larger else -gap.value)) // 2
    scene = make.choose(
        f"two numbers add up to {total} and differ by {gap}.",
        f"the sum of two numbers is {total}, their difference is {gap}.",
    )
    what = f"the {'larger' if larger else 'smaller'} one"
    comment = f"the {'larger' if larger else 'smaller'}"
    return make.block(
        what,
        value,
        make.step(comment, f"({total.code} {sign} {gap}) // 2", f"({total.code} {other} {gap}) // 2"),
        scene=scene,
    )


@idea(Family.SYSTEMS, tricky=True)
def heads_and_legs(make: Maker) -> Block:
    heads = make.main(4, 200)
    goats = make.random.randint(1, min(60, heads.value - 1))
    legs = make.literal(2 * heads.value + 2 * goats)
    scene = make.choose(
        f"a farm has hens and goats with {heads} heads and {legs} legs.",
        f"hens and goats have {heads} heads and {legs} legs together.",
    )
    extra = make.step(
        "extra legs", f"{legs} - 2 * {heads.code}", f"{legs} - 4 * {heads.code}", variable="extra"
    )
    return make.block(
        "the number of goats",
        goats,
        extra,
        make.step("two extra legs a goat", "extra // 2", "extra // 4"),
        scene=scene,
    )


@idea(Family.SYSTEMS, tricky=True)
def split_in_ratio(make: Maker) -> Block:
    total = make.main(6, 2000)
    parts = make.divisor(total.value, 3, 9)
    k = make.literal(parts.value - 1)
    scene = make.choose(
        f"two numbers add up to {total}. one is {k} times the other.",
        f"a rope of {total} feet is cut in two. one part is {k} times the other.",
    )
    what = make.choose("the smaller one", "the smaller of the two")
    return make.block(
        what,
        total.value // parts.value,
        make.step("one part", f"{total.code} // ({k} + 1)", f"{total.code} // {k}"),
        scene=scene,
    )


@idea(Family.SEQUENCES, tricky=True)
def nth_term(make: Maker) -> Block:
    first, gap, n = make.main(1, 1000), make.number(2, 12), make.number(5, 30)
    scene = make.choose(
        f"a sequence starts at {first} and grows by {gap} each time.",
        f"a list begins with {first}. each term is {gap} more than the one before.",
    )
    what = make.choose(f"term number {n}", f"its term {n}")
    value = first.value + (n.value - 1) * gap.value
    return make.block(
        what,
        value,
        make.step("the term", f"{first.code} + ({n} - 1) * {gap}", f"{first.code} + {n} * {gap}"),
        scene=scene,
    )


@idea(Family.SEQUENCES)
def sum_to(make: Maker) -> Block:
    n = make.main(4, 90)
    what = make.choose(f"the sum of all whole numbers from 1 to {n}", f"1 + 2 + ... + {n}")
    return make.block(
        what,
        n.value * (n.value + 1) // 2,
        make.step("sum from 1", f"sum(range({n.code} + 1))", f"sum(range({n.code}))"),
    )


@idea(Family.SEQUENCES)
def doubling(make: Maker) -> Block:
    first, times = make.main(1, 150), make.number(2, 6)
    make.require(first.value * 2**times.value <= MAX_VALUE)
    scene = make.choose(
        f"a plant has {first} leaves. the number doubles every day.",
        f"a pond has {first} fish and the number doubles each year.",
    )
    what = make.choose(f"the number after {times} doublings", f"how many there are after {times} times")
    return make.block(
        what,
        first.value * 2**times.value,
        make.step("doubles", f"{first.code} * 2 ** {times}", f"{first.code} * 2 * {times}"),
        scene=scene,
    )
