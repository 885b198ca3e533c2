"""A search of many trees on workers, expansion by expansion: the events of `rstar.search`, with times in place of work.

Each worker has engines, a sandbox and an event loop; one queue hands out trees, one writer stores them. `cluster` simulates
thousands of workers tree by tree with what is found here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rounds.simulation.clock import Clock
from rounds.simulation.shapes import Shape
from rounds.simulation.stations import BatchEngine, Cores, Servers, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """Seconds of service, nobody else there. On a CPU these are CPU seconds."""

    step: StepTime
    """Of the policy's engine."""
    execution_s: float
    """Of one step in the sandbox."""
    timeout_s: float = 4.0
    """Of one that uses up its time: `sandbox.cpu_s`."""
    loop_s: float
    """Of the worker's event loop per expansion: parsing, grading, requests; one thread."""
    write_s: float
    """Of the writer per tree."""
    prefix_tokens: float = 8.0
    """Per expansion, not in the prefix cache."""
    score_token_s: float = 0.0
    """Of the value model per token of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What the search runs on. `cores` of each worker are shared by sandbox and event loop, and by the engines too where
    there is no device for them (`engines_on_cores`)."""

    num_workers: int = 1
    engines_per_worker: int = 1
    cores: float = 8
    engines_on_cores: bool = False
    sandbox_servers: int = 8
    max_rows: int = 256
    trees_in_flight: int = 96
    """Per worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulation found. Utilisations are shares of the makespan, in [0, 1]; those of cores of all their cores."""

    makespan_s: float
    tokens_per_s: float
    engine_utilisation: float
    mean_rows: float
    """Candidates in a batch while an engine was busy."""
    core_utilisation: float
    loop_utilisation: float
    writer_utilisation: float
    tail_s: float
    """From when the queue was empty to the end."""
    tree_s: tuple[float, ...]
    """How long each tree took, in the order in which they began."""


class _Worker:
    def __init__(self, root: Clock, machines: Machines, times: ServiceTimes) -> None:
        self.cores = Cores(root, machines.cores)
        on = self.cores if machines.engines_on_cores else None
        self.engines = [
            BatchEngine(root, times.step, max_rows=machines.max_rows, cores=on)
            for _ in range(machines.engines_per_worker)
        ]
        self.sandbox = Servers(root, machines.sandbox_servers, self.cores)
        self.loop = Servers(root, 1, self.cores)
        self.scorer = Servers(root, 1, on)


class _Search:
    def __init__(self, shapes: Sequence[Shape], machines: Machines, times: ServiceTimes) -> None:
        self.root = Clock()
        self.times, self.machines = times, machines
        self.writer = Servers(self.root, 1)
        self.workers = [_Worker(self.root, machines, times) for _ in range(machines.num_workers)]
        self.queue = deque(enumerate(shapes))
        self.tree_s = [0.0] * len(shapes)
        self.empty_s = 0.0

    def run(self) -> None:
        for _ in range(self.machines.trees_in_flight):
            for worker in self.workers:
                self.next_tree(worker)
        self.root.run()

    def next_tree(self, worker: _Worker) -> None:
        """A slot of a worker is free: it takes the next tree of the queue."""
        if not self.queue:
            return
        index, shape = self.queue.popleft()
        self.empty_s = self.root.now
        engine = min(worker.engines, key=lambda one: one.load)
        began = self.root.now

        def expand(position: int) -> None:
            if position == len(shape):
                self.tree_s[index] = self.root.now - began
                self.writer.serve(self.times.write_s, _stored)
                self.next_tree(worker)
                return
            one = shape[position]
            waiting = 1

            def ran() -> None:
                nonlocal waiting
                waiting -= 1
                if waiting:
                    return
                if one.scored_tokens and self.times.score_token_s:
                    worker.scorer.serve(
                        one.scored_tokens * self.times.score_token_s, lambda: expand(position + 1)
                    )
                else:
                    expand(position + 1)

            def proposed() -> None:
                worker.loop.serve(self.times.loop_s, looked_at)

            def looked_at() -> None:
                nonlocal waiting
                waiting += one.executions
                for number in range(one.executions):
                    late = number < one.timeouts
                    worker.sandbox.serve(self.times.timeout_s if late else self.times.execution_s, ran)
                ran()

            engine.decode(one.token_counts, self.times.prefix_tokens, proposed)

        expand(0)


def _stored() -> None:
    """Nobody waits for the writer."""


def simulate(shapes: Sequence[Shape], machines: Machines, times: ServiceTimes) -> Outcome:
    """Search trees of these shapes, handed out in this order."""
    search = _Search(shapes, machines, times)
    search.run()
    makespan = search.root.now
    engines = [engine for worker in search.workers for engine in worker.engines]
    busy_s = sum(engine.usage.total() for engine in engines)
    whole = makespan or 1.0

    def share(area: float, count: float) -> float:
        return area / (whole * count)

    return Outcome(
        makespan_s=makespan,
        tokens_per_s=sum(engine.tokens for engine in engines) / whole,
        engine_utilisation=share(busy_s, len(engines)),
        mean_rows=sum(engine.rows.total() for engine in engines) / (busy_s or 1.0),
        core_utilisation=share(
            sum(worker.cores.usage.total() for worker in search.workers),
            machines.cores * machines.num_workers,
        ),
        loop_utilisation=share(
            sum(worker.loop.usage.total() for worker in search.workers), machines.num_workers
        ),
        writer_utilisation=share(search.writer.usage.total(), 1),
        tail_s=makespan - search.empty_s,
        tree_s=tuple(search.tree_s),
    )
