"""Stations keep the order and the times that can be worked out by hand, or pass by pass."""

from __future__ import annotations

from collections import deque
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.simulation.clock import Clock
from rounds.simulation.stations import BatchEngine, Cores, Servers, StepTime


def test_servers_work_in_order_of_arrival_and_are_busy_for_what_they_do() -> None:
    root = Clock()
    servers, seen = Servers(root, 2), list[tuple[str, float]]()

    def end(name: str) -> None:
        seen.append((name, root.now))

    for name, seconds in (("a", 3.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)):
        servers.serve(seconds, partial(end, name))
    root.run()
    assert seen == [("b", 1.0), ("c", 2.0), ("a", 3.0), ("d", 3.0)]
    assert servers.usage.total() == 6.0
    assert servers.longest_queue == 2


def test_more_at_work_than_cores_slows_all_alike() -> None:
    root = Clock()
    cores = Cores(root, 2)
    servers, seen = Servers(root, 8, cores), list[float]()
    for seconds in (1.0, 1.0, 2.0):
        servers.serve(seconds, lambda: seen.append(root.now))
    root.run()
    assert seen == pytest.approx([1.5, 1.5, 2.5])  # three share two cores until two have ended
    assert cores.usage.total() == pytest.approx(4.0)


requests = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), max_size=8)


@given(requests, st.integers(1, 10))
def test_the_engine_is_that_which_decodes_pass_by_pass(asked: list[list[int]], max_rows: int) -> None:
    step = StepTime(base_s=1.0, row_s=0.25)
    root = Clock()
    engine, seen = BatchEngine(root, step, max_rows=max_rows), list[tuple[int, float]]()

    def end(index: int) -> None:
        seen.append((index, root.now))

    for index, counts in enumerate(asked):
        engine.decode(counts, 0.0, partial(end, index))
    root.run()
    expected = pass_by_pass(asked, max_rows, step)
    assert dict(seen) == {index: pytest.approx(at) for index, at in expected.items()}
    assert engine.tokens == sum(map(sum, asked))
    assert engine.usage.total() == pytest.approx(root.now if asked else 0.0)


def pass_by_pass(asked: list[list[int]], max_rows: int, step: StepTime) -> dict[int, float]:
    """One forward pass after the other; before each whoever fits is let in."""
    waiting, running = deque(enumerate(asked)), dict[int, list[int]]()
    now, ended = 0.0, dict[int, float]()
    while waiting or running:
        rows = sum(map(len, running.values()))
        while waiting and (not rows or rows + len(waiting[0][1]) <= max_rows):
            index, counts = waiting.popleft()
            running[index] = list(counts)
            rows += len(counts)
        now += step(rows)
        for index, counts in list(running.items()):
            running[index] = [count - 1 for count in counts if count > 1]
            if not running[index]:
                ended[index] = now
                del running[index]
    return ended


def test_a_prefix_that_is_not_cached_stalls_the_batch() -> None:
    root = Clock()
    engine, seen = BatchEngine(root, StepTime(base_s=1.0, row_s=0.5), max_rows=8), list[float]()
    engine.decode([2], 4.0, lambda: seen.append(root.now))
    root.run()
    assert seen == [pytest.approx(4 * 0.5 + 2 * 1.5)]


def test_an_engine_on_cores_shares_them() -> None:
    root = Clock()
    cores = Cores(root, 1)
    engine, other = (
        BatchEngine(root, StepTime(base_s=1.0, row_s=0.0), max_rows=8, cores=cores),
        Servers(root, 1, cores),
    )
    seen: list[tuple[str, float]] = []
    engine.decode([2], 0.0, lambda: seen.append(("engine", root.now)))
    other.serve(1.0, lambda: seen.append(("other", root.now)))
    root.run()
    assert dict(seen) == pytest.approx({"other": 2.0, "engine": 3.0})
