"""The queue of a cluster alone: every tree comes out once, whatever workers do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.cluster.queue import MAX_ATTEMPTS, TaskQueue
from rstar.searcher import TreeTask
from rstar.tree import Tree


def tasks(count: int) -> list[TreeTask]:
    return [
        TreeTask(tree=Tree(problem_id=str(i), question="q"), reference=None, num_rollouts=1)
        for i in range(count)
    ]


def hand_out(queue: TaskQueue) -> list[tuple[str, str]]:
    return [(worker, task.tree.name) for worker, task in queue.assignments()]


def test_a_worker_never_has_more_than_its_room_and_the_least_busy_is_served_first() -> None:
    queue = TaskQueue(tasks(20), room=3)
    queue.join("a")
    queue.join("b")
    assert [worker for worker, _ in hand_out(queue)] == ["a", "b"] * 3
    assert hand_out(queue) == []
    queue.finish("b", queue.in_flight("b")[0])
    assert [worker for worker, _ in hand_out(queue)] == ["b"]


def test_few_tasks_are_spread_evenly() -> None:
    queue = TaskQueue(tasks(6), room=96)
    for name in "abc":
        queue.join(name)
    assert Counter(worker for worker, _ in hand_out(queue)) == {"a": 2, "b": 2, "c": 2}


def test_tasks_are_drawn_only_when_somebody_has_room() -> None:
    drawn: list[TreeTask] = []

    def lazily() -> Iterator[TreeTask]:
        for task in tasks(100):
            drawn.append(task)
            yield task

    queue = TaskQueue(lazily(), room=4)
    queue.join("a")
    hand_out(queue)
    assert len(drawn) == 4


def test_the_trees_of_a_lost_worker_run_again_before_all_others_in_their_order() -> None:
    queue = TaskQueue(tasks(10), room=3)
    queue.join("a")
    first = [name for _, name in hand_out(queue)]
    queue.finish("a", first[1])
    assert queue.leave("a") == []
    queue.join("b")
    assert hand_out(queue) == [("b", first[0]), ("b", first[2]), ("b", "3#0")]


def test_an_idle_worker_copies_half_of_what_the_busiest_started_last_and_the_first_to_end_counts() -> None:
    queue = TaskQueue(tasks(5), room=8)
    queue.join("a")
    hand_out(queue)
    queue.join("late")
    assert hand_out(queue) == [("late", "2#0"), ("late", "3#0"), ("late", "4#0")]
    assert hand_out(queue) == [], "a copy is not copied, and a busy worker takes none"
    assert queue.finish("late", "3#0") == (True, ["a"])
    assert queue.finish("a", "3#0") == (False, []), "called off, and came too late"
    assert queue.finish("a", "4#0") == (True, ["late"])
    assert queue.in_flight("late") == ["2#0"]
    assert queue.leave("late") == []
    assert hand_out(queue) == [], "its copy is still in flight where it was"
    for name in ("0#0", "1#0", "2#0"):
        queue.finish("a", name)
    assert queue.done()


def test_a_tree_whose_every_attempt_fails_is_parked_and_others_are_not() -> None:
    queue = TaskQueue(tasks(2), room=1)
    for attempt in range(MAX_ATTEMPTS):
        queue.join(f"w{attempt}")
        assert hand_out(queue) == [(f"w{attempt}", "0#0")]
        parked = queue.leave(f"w{attempt}")
        assert [task.tree.name for task in parked] == ["0#0"] * (attempt == MAX_ATTEMPTS - 1)
    queue.join("last")
    assert hand_out(queue) == [("last", "1#0")]
    assert queue.fail("last", "1#0"), "it gets another attempt"
    assert hand_out(queue) == [("last", "1#0")]


def test_trees_that_lost_two_workers_do_not_share_a_third_so_that_one_of_them_is_found_guilty_alone() -> None:
    queue = TaskQueue(tasks(4), room=2)
    for name in "ab":
        queue.join(name)
        assert set(hand_out(queue)) == {(name, "0#0"), (name, "1#0")}
        queue.leave(name)
    queue.join("c")
    assert hand_out(queue) == [("c", "0#0"), ("c", "2#0")]
    queue.join("d")
    assert hand_out(queue) == [("d", "1#0"), ("d", "3#0")]


@settings(max_examples=200)
@given(st.integers(0, 25), st.integers(1, 5), st.data())
def test_whatever_joins_leaves_fails_and_ends_each_tree_comes_out_once(
    count: int, room: int, data: st.DataObject
) -> None:
    queue = TaskQueue(tasks(count), room=room)
    out: Counter[str] = Counter()
    number = 0
    for _ in range(data.draw(st.integers(0, 60))):
        workers = queue.workers
        move = data.draw(st.sampled_from(["join", "leave", "finish", "fail", "hand out"]))
        worker = data.draw(st.sampled_from(workers)) if workers else ""
        flying = queue.in_flight(worker)
        name = data.draw(st.sampled_from(flying)) if flying else ""
        if move == "join":
            number += 1
            queue.join(f"w{number}")
        elif move == "leave" and worker:
            out.update(task.tree.name for task in queue.leave(worker))
        elif move == "finish" and name:
            first, _ = queue.finish(worker, name)
            assert first
            out[name] += 1
        elif move == "fail" and name:
            out[name] += not queue.fail(worker, name)
        elif move == "hand out":
            hand_out(queue)
        for one in queue.workers:
            assert len(queue.in_flight(one)) <= room
    queue.join("last")
    while not queue.done():
        hand_out(queue)
        for one in queue.workers:
            for name in islice(queue.in_flight(one), 1):
                out[name] += queue.finish(one, name)[0]
    assert +out == Counter({f"{i}#0": 1 for i in range(count)})


@pytest.mark.parametrize("room", [1, 3])
def test_copies_stay_within_a_workers_room(room: int) -> None:
    queue = TaskQueue(tasks(12), room=room)
    for name in "abcd":
        queue.join(name)
    hand_out(queue)
    while not queue.done():
        for one in queue.workers:
            for name in islice(queue.in_flight(one), 1):
                queue.finish(one, name)
        hand_out(queue)
        assert all(len(queue.in_flight(one)) <= room for one in queue.workers)
