"""What is due on a clock happens when its rate, and the rates of the clocks it runs on, have let so much time pass."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.simulation.clock import Clock

rates = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])


def test_calls_come_in_order_of_time_and_those_of_one_moment_in_order_of_asking() -> None:
    root, seen = Clock(), list[str]()

    def call(name: str) -> None:
        seen.append(f"{name}{root.now:.0f}")

    for delay, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        root.after(delay, partial(call, name))
    assert root.run() == 2.0
    assert seen == ["a1", "b1", "c2"]


@given(
    st.lists(st.tuples(st.integers(1, 8), rates, rates), max_size=5),
    st.integers(1, 12).map(lambda n: n + 0.3),
)
def test_a_clock_on_a_clock_is_the_integral_of_both_rates(
    changes: list[tuple[int, float, float]], due: float
) -> None:
    root = Clock()
    outer = Clock(root, 1.0)
    inner = Clock(outer, 1.0)
    seen: list[float] = []
    inner.after(due, lambda: seen.append(root.now))

    def change(outer_rate: float, inner_rate: float) -> None:
        outer.rate, inner.rate = outer_rate, inner_rate

    at = 0
    for after, outer_rate, inner_rate in changes:
        at += after
        root.after(at, partial(change, outer_rate, inner_rate))
    root.after(1000, partial(change, 1.0, 1.0))
    root.run()
    assert seen == [pytest.approx(naive(changes, due))]


def naive(changes: list[tuple[int, float, float]], due: float) -> float:
    """When `due` has passed, in small steps of equal length."""
    step, now, passed, at = 1 / 16, 0.0, 0.0, 0
    moments: dict[float, float] = {1000.0: 1.0}
    for after, outer_rate, inner_rate in changes:
        at += after
        moments[float(at)] = outer_rate * inner_rate
    rate = 1.0
    while passed < due:
        rate = moments.get(now, rate)
        if passed + rate * step >= due:
            return now + (due - passed) / rate
        now, passed = now + step, passed + rate * step
    raise AssertionError


def test_a_stopped_clock_keeps_what_is_due_for_later() -> None:
    root = Clock()
    clock, seen = Clock(root), list[float]()
    clock.after(1.0, lambda: seen.append(root.now))
    root.after(0.5, lambda: setattr(clock, "rate", 0.0))
    root.after(3.0, lambda: setattr(clock, "rate", 0.5))
    root.run()
    assert seen == [4.0]
