"""Search over the workers of a cluster, as `rstar.campaign` asks for it: tasks in, finished trees out.

The loop hands each worker as many trees as it may have in flight and waits for events: a tree that ended, a call that
failed, a worker that joined. A worker's death sends its trees back to the queue; what has been yielded is never lost,
because it is stored here, by the driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from rstar.cluster.connection import connected, last_line, own_error
from rstar.cluster.fleet import Fleet, Joined, Refused, Worker
from rstar.cluster.queue import MAX_ATTEMPTS, TaskQueue
from rstar.cluster.worker import Reply
from rstar.evaluation import SearchCounts, WorkerCounts
from rstar.search import SearchResult
from rstar.searcher import SearchSetup, TreeTask

LOG = logging.getLogger(__name__)

COUNT_S = 1.0
"""Between questions to workers for what they have done, for the progress display."""
CALLED_OFF_WITHIN_S = 5.0
MAX_FAULTS = 3
"""Trees that a worker may park in a row before it is replaced: its GPU or sandbox is broken [ours]."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker's search of a tree is over: with a reply, or with what Ray says happened to it."""

    worker: Worker
    task: TreeTask
    outcome: Reply | Exception


class ClusterSearcher:
    """`rstar.searcher.Searcher` over the workers of a Ray cluster."""

    def __init__(self, ray: Any, fleet: Fleet, setup: SearchSetup, stack: ExitStack) -> None:
        self._ray = ray
        self._fleet = fleet
        self._setup = setup
        self._stack = stack

    @classmethod
    async def open(cls, address: str, setup: SearchSetup) -> Self:
        """Connect to the cluster at `address` (see `connected`) and start workers on all its nodes.

        Raises ConfigError, one line, for a cluster that cannot be reached, has no node with enough GPUs, or whose nodes
        do not see the model; what engines raise; BackendError if workers die.
        """
        stack = ExitStack()
        fleet: Fleet | None = None
        try:
            ray = stack.enter_context(connected(address))
            fleet = Fleet(ray, address, setup)
            await fleet.open()
        except BaseException:
            if fleet is not None:
                await fleet.aclose()
            stack.close()
            raise
        return cls(ray, fleet, setup, stack)

    async def search(self, tasks: Iterable[TreeTask], counts: SearchCounts) -> AsyncIterator[SearchResult]:
        """As `Searcher.search`; `max_trees_in_flight` run at a time on each worker.

        A tree that is parked on one worker is tried on others; BackendError if no node is left that could have a worker.
        """
        run = _Run(self._ray, self._fleet, TaskQueue(tasks, room=self._setup.max_trees_in_flight), counts)
        try:
            async for result in run.results():
                yield result
        finally:
            await run.aclose()

    async def aclose(self) -> None:
        """End the workers, and the connection unless it was there before."""
        try:
            await self._fleet.aclose()
        finally:
            self._stack.close()


class _Run:
    """One search: a queue of tasks over the workers of a fleet."""

    def __init__(self, ray: Any, fleet: Fleet, queue: TaskQueue, counts: SearchCounts) -> None:
        self._ray = ray
        self._fleet = fleet
        self._queue = queue
        self._counts = counts
        self._events: asyncio.Queue[_Ended | Joined | Refused] = asyncio.Queue()
        self._calls: dict[tuple[str, str], Any] = {}
        """Ray's references to the searches under way, by worker and tree."""
        self._faults: Counter[str] = Counter()
        """Trees parked in a row, by worker."""
        self._silent: set[str] = set()
        """Workers that have not replied for a while."""
        self._asked: set[str] = set()
        """Those that have been asked for their counts and have not answered yet."""
        self._helpers: set[asyncio.Task[None]] = set()

    async def results(self) -> AsyncIterator[SearchResult]:
        for worker in self._fleet.workers.values():
            self._join(worker)
        self._help(self._forward())
        self._help(self._count())
        while True:
            for name, task in self._queue.assignments():
                self._start(self._fleet.workers[name], task)
            self._counts.trees_in_flight = len(self._calls)
            if self._queue.done():
                return
            match await self._events.get():
                case Joined(worker):
                    self._join(worker)
                case Refused(node, error, left):
                    if not left:
                        raise error
                    LOG.warning("no more workers on %s: %s", node.host, error)
                case _Ended(worker, _, Reply() as reply):
                    for result in self._ended(worker, reply):
                        yield result
                case _Ended(worker, task, Exception() as error):
                    for result in self._failed(worker, task.tree.name, error):
                        yield result

    def _join(self, worker: Worker) -> None:
        if worker.name not in self._queue.workers:
            self._queue.join(worker.name)
            self._counts.workers.setdefault(worker.name, WorkerCounts())

    def _start(self, worker: Worker, task: TreeTask) -> None:
        ref = worker.actor.search.remote(task)
        self._calls[worker.name, task.tree.name] = ref
        self._help(self._wait(worker, task, ref))

    async def _wait(self, worker: Worker, task: TreeTask, ref: Any) -> None:
        try:
            outcome: Reply | Exception = await ref
        except Exception as error:
            outcome = error
        self._calls.pop((worker.name, task.tree.name), None)
        self._events.put_nowait(_Ended(worker, task, outcome))

    def _ended(self, worker: Worker, reply: Reply) -> Iterator[SearchResult]:
        """A tree came back, finished or with a fault."""
        self._add(worker, reply.counted)
        result, name = reply.result, reply.result.tree.name
        if result.fault:
            self._faults[worker.name] += 1
            if not self._queue.fail(worker.name, name):
                yield result
            if self._faults[worker.name] >= MAX_FAULTS:
                yield from self._lose(worker, result.fault)
            return
        self._faults.pop(worker.name, None)
        self._fleet.praise(worker)
        first, others = self._queue.finish(worker.name, name)
        for other in others:
            self._cancel(other, name)
        if first:
            self._counts.workers[worker.name].trees += 1
            yield result

    def _failed(self, worker: Worker, name: str, error: Exception) -> Iterator[SearchResult]:
        """A call did not return: the worker died, or the search raised what is nobody's fault but the settings'."""
        if name not in self._queue.in_flight(worker.name):
            return  # called off, or the worker's death is known
        if isinstance(error, self._ray.exceptions.RayTaskError):
            raise own_error(error)
        if not isinstance(error, self._ray.exceptions.RayError):
            raise error
        yield from self._lose(worker, last_line(error))

    def _lose(self, worker: Worker, why: str) -> Iterator[SearchResult]:
        """Take a worker out. Its trees run again, but for those whose every attempt ended so: they are parked."""
        if worker.name not in self._queue.workers:
            return
        self._counts.workers[worker.name].alive = False
        in_flight = self._queue.in_flight(worker.name)
        LOG.warning("worker %s is lost, its %d trees run again: %s", worker.name, len(in_flight), why)
        parked = self._queue.leave(worker.name)
        self._fleet.lose(worker, why)
        for task in parked:
            fault = f"{MAX_ATTEMPTS} workers died or failed while searching it, the last one: {why}"
            yield SearchResult(tree=task.tree, seconds=0.0, fault=fault)

    def _cancel(self, worker: str, name: str) -> None:
        if (ref := self._calls.get((worker, name))) is not None:
            self._ray.cancel(ref)

    async def _forward(self) -> None:
        while True:
            self._events.put_nowait(await self._fleet.events.get())

    async def _count(self) -> None:
        """Ask workers that have not replied lately what they have done."""
        while True:
            self._silent = set(self._fleet.workers)
            await asyncio.sleep(COUNT_S)
            for worker in [*self._fleet.workers.values()]:
                if worker.name in self._silent and worker.name not in self._asked:
                    self._help(self._ask(worker))

    async def _ask(self, worker: Worker) -> None:
        self._asked.add(worker.name)
        with contextlib.suppress(self._ray.exceptions.RayError):  # its death is for its searches to tell
            self._add(worker, await worker.actor.counted.remote())
        self._asked.discard(worker.name)

    def _add(self, worker: Worker, counted: SearchCounts) -> None:
        self._silent.discard(worker.name)
        self._counts.add(counted)
        own = self._counts.workers.setdefault(worker.name, WorkerCounts())
        own.tokens += counted.tokens
        own.executions += counted.executions.total()

    def _help(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def aclose(self) -> None:
        """Call off what is in flight; the workers stay, with nothing left to count."""
        for ref in self._calls.values():
            self._ray.cancel(ref)
        for task in [*self._helpers]:
            task.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)
        asked = [asyncio.create_task(self._ask(worker)) for worker in self._fleet.workers.values()]
        if asked:
            await asyncio.wait(asked, timeout=CALLED_OFF_WITHIN_S)
