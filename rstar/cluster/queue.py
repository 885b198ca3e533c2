"""Which worker searches which tree. Pure bookkeeping: no Ray, no clock, no waiting.

Tasks wait in one queue, none at a worker, so whoever has room takes the next: fast workers take more. When the queue is
empty, an idle worker takes copies of trees in flight on the busiest one, and of two copies the first to end counts: so
nodes that join late are of use, and one that hangs holds nobody up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rstar.searcher import TreeTask

MAX_ATTEMPTS = 4
"""Searches of one tree that end in a fault or with their worker's death, before the tree is parked [ours]."""


SUSPECT_FROM = 2
"""Failed searches from which on a tree may be what kills its workers: no worker has two of those in flight [ours]."""


@dataclass(slots=True)
class _Open:
    """A tree that is not finished: waiting, or in flight on `holders`."""

    task: TreeTask
    holders: list[str] = field(default_factory=list)
    attempts: int = 0
    """Searches that failed."""

    @property
    def suspect(self) -> bool:
        return self.attempts >= SUSPECT_FROM


class TaskQueue:
    """Hands tasks to workers, at most `room` at a time to each. Tasks are drawn as they are needed; names of trees are
    distinct."""

    def __init__(self, tasks: Iterable[TreeTask], *, room: int) -> None:
        self._fresh: Iterator[TreeTask] = iter(tasks)
        self._returned: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._open: dict[str, _Open] = {}
        self._room = room
        self._flights: dict[str, dict[str, None]] = {}
        """By worker, its trees in flight, the one started last at the end."""

    @property
    def workers(self) -> list[str]:
        return list(self._flights)

    def done(self) -> bool:
        """Every tree is finished or parked."""
        return not self._open and not self._draw()

    def in_flight(self, worker: str) -> list[str]:
        """Names of the trees that a worker is searching."""
        return list(self._flights.get(worker, ()))

    def join(self, worker: str) -> None:
        """A new worker, with nothing in flight."""
        assert worker not in self._flights, f"{worker} is here already"
        self._flights[worker] = {}

    def leave(self, worker: str) -> list[TreeTask]:
        """A worker is gone. Its trees go back to the front of the queue, unless another worker has a copy.

        Returns the trees to be parked: those of which every attempt failed. They are in the queue no more.
        """
        parked = []
        for name in reversed(self._flights.pop(worker, {})):
            opened = self._open[name]
            opened.holders.remove(worker)
            if not self._again(name):
                parked.append(opened.task)
        return parked

    def fail(self, worker: str, name: str) -> bool:
        """A worker could not search a tree to its end. False if no other attempt will be made: the tree is parked.
        True also if nobody waits for this attempt any more."""
        if not self._landed(worker, name):
            return True
        return self._again(name)

    def finish(self, worker: str, name: str) -> tuple[bool, list[str]]:
        """A worker has finished a tree: is it the first copy, and which workers hold others that should be cancelled?"""
        if not self._landed(worker, name):
            return False, []
        others = self._open.pop(name).holders
        for other in others:
            del self._flights[other][name]
        return True, others

    def assignments(self) -> Iterator[tuple[str, TreeTask]]:
        """What is to be started now: worker and task, the least busy worker first. Each is in flight when it is yielded."""
        while self._flights:
            worker = min(self._flights, key=lambda one: len(self._flights[one]))
            if len(self._flights[worker]) >= self._room:
                return
            if (name := self._next(worker)) is None:
                break
            yield worker, self._start(worker, name)
        for worker in self._flights:  # those that may take a suspect are not always the least busy
            if self._suspects and len(self._flights[worker]) < self._room and not self._has_suspect(worker):
                yield worker, self._start(worker, self._suspects.popleft())
        yield from self._copies()

    def _next(self, worker: str) -> str | None:
        """What this worker should take of what waits: first what others failed at."""
        if self._suspects and not self._has_suspect(worker):
            return self._suspects.popleft()
        if self._returned or self._draw():
            return self._returned.popleft()
        return None

    def _has_suspect(self, worker: str) -> bool:
        return any(self._open[name].suspect for name in self._flights[worker])

    def _copies(self) -> Iterator[tuple[str, TreeTask]]:
        """For each idle worker, half of the trees that only the busiest one holds: those started last, which are likely to
        end last."""
        for idle in [worker for worker, trees in self._flights.items() if not trees]:
            for trees in sorted(self._flights.values(), key=len, reverse=True):
                alone = [name for name in trees if len(self._open[name].holders) == 1]
                if alone:
                    for name in alone[len(alone) // 2 :]:
                        yield idle, self._start(idle, name)
                    break

    def _draw(self) -> bool:
        """Put the next fresh task where a returned one would wait. False if there is none."""
        task = next(self._fresh, None)
        if task is None:
            return False
        self._open[task.tree.name] = _Open(task)
        self._returned.append(task.tree.name)
        return True

    def _start(self, worker: str, name: str) -> TreeTask:
        self._open[name].holders.append(worker)
        self._flights[worker][name] = None
        return self._open[name].task

    def _landed(self, worker: str, name: str) -> bool:
        """The attempt is over. False if it was called off before: the worker left, or a copy was first."""
        if name not in self._flights.get(worker, ()):
            return False
        del self._flights[worker][name]
        self._open[name].holders.remove(worker)
        return True

    def _again(self, name: str) -> bool:
        """Queue a tree whose attempt failed, if nobody else is at it; False if it is to be parked instead."""
        opened = self._open[name]
        opened.attempts += 1
        if opened.holders:
            return True
        if opened.attempts >= MAX_ATTEMPTS:
            del self._open[name]
            return False
        (self._suspects if opened.suspect else self._returned).appendleft(name)
        return True
