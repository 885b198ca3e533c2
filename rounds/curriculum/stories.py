"""Families told as little stories: quantities, rates, percentages, ages. See `blocks` for the words used here."""

from __future__ import annotations

from rounds.curriculum.blocks import MAX_VALUE, Block, CodeStep, Family, Maker, Quantity, idea


def _owner(make: Maker, low: int = 2, high: int = 400) -> tuple[str, tuple[CodeStep, ...], str, int]:
    """Someone who has things: the sentence and the step that say so (empty where the chain has told it), who, and
    how many."""
    if make.given is not None and make.given.person:
        return "", (), make.given.person, make.main(low, high).value
    owner = make.person()
    amount = make.main(low, high)
    told = make.choose(
        f"{owner} has {amount} {make.things}. ", f"there are {amount} {make.things} in {owner}'s box. "
    )
    return told, (make.step("at first", amount.code, variable=owner),), owner, amount.value


@idea(Family.QUANTITIES)
def times_as_many(make: Maker) -> Block:
    told, steps, old, value = _owner(make)
    new, k = make.person(), make.number(2, 9)
    make.require(value * k.value <= MAX_VALUE)
    told += make.choose(
        f"{new} has {k} times as many as {old}.", f"{new} has {k} times the {make.things} of {old}."
    )
    return make.story(
        told,
        new,
        value * k.value,
        *steps,
        make.step("times as many", f"{old} * {k}", f"{old} + {k}", variable=new),
    )


@idea(Family.QUANTITIES)
def more_than(make: Maker) -> Block:
    told, steps, old, value = _owner(make)
    new, k = make.person(), make.number(2, 60)
    told += make.choose(f"{new} has {k} more than {old}.", f"{new} has {k} {make.things} more than {old}.")
    return make.story(
        told,
        new,
        value + k.value,
        *steps,
        make.step("more than", f"{old} + {k}", f"{old} - {k}", variable=new),
    )


@idea(Family.QUANTITIES)
def fewer_than(make: Maker) -> Block:
    told, steps, old, value = _owner(make, 4)
    new, k = make.person(), make.number(2, min(60, value - 1))
    told += make.choose(f"{new} has {k} fewer than {old}.", f"{new} has {k} {make.things} less than {old}.")
    return make.story(
        told,
        new,
        value - k.value,
        *steps,
        make.step("fewer than", f"{old} - {k}", f"{old} + {k}", variable=new),
    )


@idea(Family.QUANTITIES, tricky=True)
def more_than_unknown(make: Maker) -> Block:
    told, steps, old, value = _owner(make, 4)
    new, k = make.person(), make.number(2, min(60, value - 1))
    told += make.choose(
        f"that is {k} more than {new} has.", f"this is {k} {make.things} more than {new} has."
    )
    return make.story(
        told,
        new,
        value - k.value,
        *steps,
        make.step("the other has fewer", f"{old} - {k}", f"{old} + {k}", variable=new),
    )


@idea(Family.QUANTITIES)
def share_of(make: Maker) -> Block:
    told, steps, old, value = _owner(make)
    k = make.divisor(value, 2, 4)
    new = make.person()
    word = {2: "half", 3: "a third", 4: "a quarter"}[k.value]
    told += make.choose(f"{new} has {word} as many as {old}.", f"{new} has {word} of what {old} has.")
    return make.story(
        told,
        new,
        value // k.value,
        *steps,
        make.step("a part of it", f"{old} // {k}", f"{old} * {k}", variable=new),
    )


@idea(Family.QUANTITIES)
def gain(make: Maker) -> Block:
    told, steps, who, value = _owner(make)
    k = make.number(2, 60)
    told += make.choose(
        f"{who} finds {k} more.", f"{who} gets {k} more {make.things}.", f"then {who} buys {k}."
    )
    return make.story(
        told, who, value + k.value, *steps, make.step("gains", f"{who} + {k}", f"{who} - {k}", variable=who)
    )


@idea(Family.QUANTITIES)
def loss(make: Maker) -> Block:
    told, steps, who, value = _owner(make, 4)
    k = make.number(2, min(60, value - 1))
    told += make.choose(f"{who} loses {k}.", f"{who} sells {k} {make.things}.", f"then {who} gives {k} away.")
    return make.story(
        told, who, value - k.value, *steps, make.step("loses", f"{who} - {k}", f"{who} + {k}", variable=who)
    )


@idea(Family.QUANTITIES, tricky=True)
def gives_part(make: Maker) -> Block:
    told, steps, who, value = _owner(make)
    k = make.divisor(value, 3, 5)
    word = {3: "a third", 4: "a quarter", 5: "a fifth"}[k.value]
    told += make.choose(f"{who} gives {word} away.", f"then {who} loses {word} of them.")
    right, wrong = f"{who} - {who} // {k}", f"{who} // {k}"
    return make.story(
        told, who, value - value // k.value, *steps, make.step("keeps the rest", right, wrong, variable=who)
    )


@idea(Family.RATES)
def made_in_time(make: Maker) -> Block:
    rate, hours = make.main(3, 300), make.number(2, 12)
    scene = make.choose(
        f"a machine makes {rate} {make.things} per hour.", f"each hour a shop sells {rate} {make.things}."
    )
    what = make.choose(f"the number of {make.things} in {hours} hours", f"the total after {hours} hours")
    return make.block(
        what,
        rate.value * hours.value,
        make.step("rate times time", f"{rate.code} * {hours}", f"{rate.code} + {hours}"),
        scene=scene,
    )


@idea(Family.RATES)
def time_needed(make: Maker) -> Block:
    total = make.main(12, 2000)
    rate = make.divisor(total.value, 2, 40)
    scene = make.choose(f"a pipe fills {rate} cups per minute.", f"a printer prints {rate} pages per minute.")
    what = make.choose(f"the time for {total} of them", f"the minutes it takes for {total}")
    return make.block(
        what,
        total.value // rate.value,
        make.step("total over rate", f"{total.code} // {rate}", f"{total.code} * {rate}"),
        scene=scene,
    )


@idea(Family.RATES, tricky=True)
def closing_distance(make: Maker) -> Block:
    first, second, hours = make.main(5, 150), make.number(5, 60), make.number(2, 8)
    scene = make.choose(
        f"two cars drive apart at {first} and {second} miles per hour.",
        f"two trains leave a town in opposite directions at {first} and {second} miles per hour.",
    )
    what = make.choose(
        f"the distance between them after {hours} hours", f"how far apart they are after {hours} hours"
    )
    right, wrong = f"({first.code} + {second}) * {hours}", f"({first.code} - {second}) * {hours}"
    return make.block(
        what,
        (first.value + second.value) * hours.value,
        make.step("speeds add up", right, wrong),
        scene=scene,
    )


@idea(Family.RATES)
def price_of_more(make: Maker) -> Block:
    cost = make.main(6, 600)
    few = make.divisor(cost.value, 2, 9)
    many = make.number(2, 12)
    make.require(many.value != few.value)
    each = cost.value // few.value
    scene = make.choose(
        f"{few} {make.things} cost {cost} dollars.", f"a shop takes {cost} dollars for {few} {make.things}."
    )
    what = make.choose(f"the cost of {many} {make.things}", f"the price of {many}")
    one = make.step("price of one", f"{cost.code} // {few}", f"{cost.code} * {few}", variable="one")
    return make.block(
        what, each * many.value, one, make.step("price of all", f"one * {many}", f"one + {many}"), scene=scene
    )


@idea(Family.PERCENTAGES)
def percent_of(make: Maker) -> Block:
    share, whole = _percent(make)
    what = make.choose(f"{share} percent of {whole}", f"{share} per cent of {whole}")
    part = whole.value * share.value // 100
    return make.block(
        what, part, make.step("percent of it", f"{whole.code} * {share} // 100", f"{whole.code} // {share}")
    )


@idea(Family.PERCENTAGES, tricky=True)
def discount(make: Maker) -> Block:
    share, whole = _percent(make)
    make.require(share.value < 100)
    scene = make.choose(
        f"a coat costs {whole} dollars. it gets {share} percent off.",
        f"a lamp for {whole} dollars is sold {share} percent cheaper.",
    )
    what = make.choose("the new price", "the price now")
    part = f"{whole.code} * {share} // 100"
    price = whole.value - whole.value * share.value // 100
    return make.block(
        what, price, make.step("take the percent off", f"{whole.code} - {part}", part), scene=scene
    )


@idea(Family.PERCENTAGES, tricky=True)
def growth(make: Maker) -> Block:
    share, whole = _percent(make)
    scene = make.choose(
        f"a town of {whole} people grows by {share} percent.",
        f"a farm with {whole} trees gets {share} percent more.",
    )
    what = make.choose("the new number", "the number now")
    part = f"{whole.code} * {share} // 100"
    number = whole.value + whole.value * share.value // 100
    return make.block(what, number, make.step("add the percent", f"{whole.code} + {part}", part), scene=scene)


def _percent(make: Maker) -> tuple[Quantity, Quantity]:
    """A percentage and a whole that it divides evenly."""
    whole = make.main(4, 2000) if make.given is not None else make.literal(20 * make.random.randint(1, 20))
    shares = [share for share in range(5, 100, 5) if whole.value * share % 100 == 0]
    make.require(bool(shares))
    return make.literal(make.random.choice(shares)), whole


@idea(Family.AGES, tricky=True)
def age_later(make: Maker) -> Block:
    age, years = make.main(5, 80), make.number(2, 20)
    who = make.person()
    k = make.number(2, 4)
    scene = make.choose(f"{who} is {age} years old.", f"{who} is now {age}.")
    what = make.choose(
        f"{k} times the age of {who} in {years} years",
        f"the age of {who}'s uncle, who is {k} times as old as {who} will be in {years} years",
    )
    value = (age.value + years.value) * k.value
    return make.block(
        what,
        value,
        make.step("later age times", f"({age.code} + {years}) * {k}", f"{age.code} * {k} + {years}"),
        scene=scene,
    )


@idea(Family.AGES)
def age_before(make: Maker) -> Block:
    age = make.main(8, 300)
    who, years = make.person(), make.number(2, 7)
    scene = make.choose(f"{who} is {age} years old.", f"a tree of {who}'s is {age} years old.")
    what = make.choose(f"the age {years} years ago", f"how old that was {years} years ago")
    return make.block(
        what,
        age.value - years.value,
        make.step("years ago", f"{age.code} - {years}", f"{age.code} + {years}"),
        scene=scene,
    )


@idea(Family.AGES)
def age_sum(make: Maker) -> Block:
    age = make.main(4, 200)
    who, other, years = make.person(), make.person(), make.number(2, 20)
    scene = make.choose(
        f"{who} is {age} and {other} is {years} years older.",
        f"{who} is {age} years old. {other} is older by {years} years.",
    )
    what = make.choose("the sum of their ages", "their ages together")
    older = make.step("the older one", f"{age.code} + {years}", f"{age.code} - {years}", variable=other)
    value = 2 * age.value + years.value
    return make.block(
        what,
        value,
        older,
        make.step("both ages", f"{age.code} + {other}", f"{other} - {age.code}"),
        scene=scene,
    )
