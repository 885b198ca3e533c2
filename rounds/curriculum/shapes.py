"""Families about figures and data: geometry, averages. See `blocks` for the words used here."""

from __future__ import annotations

from rounds.curriculum.blocks import MAX_VALUE, Block, Family, Maker, idea


@idea(Family.GEOMETRY)
def rectangle_area(make: Maker) -> Block:
    a, b = make.main(3, 300), make.number(2, 40)
    make.require(a.value * b.value <= MAX_VALUE)
    what = make.choose(
        f"the area of a rectangle with sides {a} and {b}", f"the area of a garden {a} long and {b} wide"
    )
    return make.block(what, a.value * b.value, make.step("area", f"{a.code} * {b}", f"{a.code} + {b}"))


@idea(Family.GEOMETRY)
def rectangle_perimeter(make: Maker) -> Block:
    a, b = make.main(3, 1000), make.number(2, 60)
    what = make.choose(
        f"the perimeter of a rectangle with sides {a} and {b}",
        f"the fence around a garden {a} long and {b} wide",
    )
    return make.block(
        what, 2 * (a.value + b.value), make.step("all four sides", f"2 * ({a.code} + {b})", f"{a.code} + {b}")
    )


@idea(Family.GEOMETRY, tricky=True)
def triangle_area(make: Maker) -> Block:
    a, b = make.main(3, 300), make.number(2, 40)
    make.require(a.value * b.value % 2 == 0 and a.value * b.value <= MAX_VALUE)
    what = make.choose(
        f"the area of a triangle with base {a} and height {b}",
        f"the area of a sail with base {a} and height {b}",
    )
    return make.block(
        what,
        a.value * b.value // 2,
        make.step("half of base times height", f"{a.code} * {b} // 2", f"{a.code} * {b}"),
    )


@idea(Family.GEOMETRY)
def box_volume(make: Maker) -> Block:
    a, b, c = make.main(2, 60), make.number(2, 12), make.number(2, 12)
    make.require(a.value * b.value * c.value <= MAX_VALUE)
    what = make.choose(
        f"the volume of a box with edges {a}, {b} and {c}", f"the space in a box {a} by {b} by {c}"
    )
    return make.block(
        what,
        a.value * b.value * c.value,
        make.step("volume", f"{a.code} * {b} * {c}", f"{a.code} + {b} + {c}"),
    )


@idea(Family.GEOMETRY)
def side_of_square(make: Maker) -> Block:
    around = make.main(8, 2000) if make.given is not None else make.literal(4 * make.random.randint(2, 24))
    make.require(around.value % 4 == 0)
    what = make.choose(
        f"the side of a square with perimeter {around}",
        f"the side of a square field with a fence of {around}",
    )
    return make.block(
        what, around.value // 4, make.step("a quarter of it", f"{around.code} // 4", f"{around.code} * 4")
    )


@idea(Family.AVERAGES)
def mean_of_three(make: Maker) -> Block:
    a, b = make.main(2, 999), make.number(2, 99)
    c = make.literal(make.random.randint(1, 30) * 3 - (a.value + b.value) % 3)
    total = a.value + b.value + c.value
    what = make.choose(f"the average of {a}, {b} and {c}", f"the mean of {a}, {b} and {c}")
    add = make.step("add them", f"{a.code} + {b} + {c}", f"{a.code} + {b}", variable="total")
    return make.block(what, total // 3, add, make.step("divide by three", "total // 3", "total // 2"))


@idea(Family.AVERAGES, tricky=True)
def missing_value(make: Maker) -> Block:
    mean = make.main(3, 500)
    a = make.number(1, min(60, 2 * mean.value - 1))
    scene = make.choose(
        f"the average of two numbers is {mean}. one of them is {a}.",
        f"two numbers have mean {mean}. the first is {a}.",
    )
    what = make.choose("the other one", "the other number")
    return make.block(
        what,
        2 * mean.value - a.value,
        make.step("twice the mean, less one", f"2 * {mean.code} - {a}", f"{mean.code} - {a}"),
        scene=scene,
    )


@idea(Family.AVERAGES)
def total_from_mean(make: Maker) -> Block:
    mean, n = make.main(3, 600), make.number(3, 12)
    scene = make.choose(
        f"a class of {n} has an average of {mean} points.", f"the mean of {n} numbers is {mean}."
    )
    what = make.choose("the total", "the sum of all")
    return make.block(
        what,
        mean.value * n.value,
        make.step("mean times count", f"{mean.code} * {n}", f"{mean.code} // {n}"),
        scene=scene,
    )
