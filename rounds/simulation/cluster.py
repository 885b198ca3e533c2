"""A search on thousands of workers, tree by tree: what one worker does with n trees at once is taken from `search`.

A tree is a job of as many seconds as it takes alone on a worker; with n of them in flight each goes on at a speed that the
detailed simulation has shown. What it adds is what one worker cannot show: a common queue, one writer, the end of a run.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rounds.simulation.clock import Clock
from rounds.simulation.search import Machines, ServiceTimes, simulate
from rounds.simulation.shapes import Shape
from rounds.simulation.stations import Servers


@dataclass(frozen=True, slots=True)
class Speed:
    """Of each of n trees on one worker, as a share of what one alone goes at; between the numbers that were simulated it is
    interpolated in n trees' joint speed."""

    numbers: tuple[int, ...]
    speeds: tuple[float, ...]

    def __call__(self, n: int) -> float:
        if n >= self.numbers[-1]:
            return self.speeds[-1] * self.numbers[-1] / n
        at = bisect.bisect_right(self.numbers, n)
        low, high = self.numbers[at - 1], self.numbers[at]
        joint_low, joint_high = low * self.speeds[at - 1], high * self.speeds[at]
        return (joint_low + (joint_high - joint_low) * (n - low) / (high - low)) / n

    @property
    def capacity(self) -> float:
        """Seconds of work, as measured alone, that a worker does in one."""
        return max(number * speed for number, speed in zip(self.numbers, self.speeds, strict=True))


def measure_speed(
    shapes: Sequence[Shape], machines: Machines, times: ServiceTimes, numbers: Sequence[int]
) -> tuple[Speed, list[float]]:
    """Simulate one worker with each number of trees in flight, 1 first; returns its speed and each shape's seconds alone.

    Shapes are repeated until there are three times as many trees as are in flight; those that begin or end while the worker
    is not full do not count."""
    assert numbers[0] == 1, "speeds are relative to a tree alone"
    alone: list[float] = []
    speeds = []
    for number in numbers:
        at_once = dataclasses.replace(machines, num_workers=1, trees_in_flight=number)
        repeated = list(shapes) * -(-3 * number // len(shapes))
        took = simulate(repeated, at_once, times).tree_s
        alone = alone or list(took)
        steady = range(number // 2, len(repeated) - number) if number > 1 else range(len(shapes))
        speeds.append(sum(alone[i % len(shapes)] for i in steady) / sum(took[i] for i in steady))
    return Speed(tuple(numbers), tuple(speeds)), alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """How the work is spread."""

    num_workers: int
    trees_in_flight: int
    """Per worker."""
    write_s: float
    """Of one writer per tree."""
    longest_first: bool = False
    """The queue is in the order of expected length, the longest first."""
    barriers: bool = True
    """A further pass over unsolved problems begins when the pass before has ended everywhere; else at once, for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOutcome:
    """`utilisation`: work done over what all workers could have done in the whole time. `tail_s`: from when the queue was
    empty for the last time. `writer_utilisation`: share of the time in which the writer was busy; `written_s` when it was done."""

    makespan_s: float
    utilisation: float
    tail_s: float
    writer_utilisation: float
    written_s: float
    trees: int


Job = tuple[float, ...]
"""A problem: the seconds alone of its tree, then of each further pass that it is still unsolved for."""


def simulate_cluster(jobs: Sequence[Job], speed: Speed, config: ClusterConfig) -> ClusterOutcome:
    """Search all problems with all their passes."""
    run = _Cluster(jobs, speed, config)
    run.root.run()
    work = sum(map(sum, jobs))
    trees = sum(map(len, jobs))
    makespan = run.ended_s
    return ClusterOutcome(
        makespan_s=makespan,
        utilisation=work / (makespan * config.num_workers * speed.capacity) if makespan else 0.0,
        tail_s=makespan - run.empty_s,
        writer_utilisation=run.writer.usage.total() / max(makespan, run.root.now) if makespan else 0.0,
        written_s=run.root.now,
        trees=trees,
    )


class _Cluster:
    def __init__(self, jobs: Sequence[Job], speed: Speed, config: ClusterConfig) -> None:
        self.root, self.speed, self.config = Clock(), speed, config
        self.writer = Servers(self.root, 1)
        self.workers = [Clock(self.root, 0.0) for _ in range(config.num_workers)]
        self.in_flight = [0] * config.num_workers
        self.idlest = [(0, index) for index in range(config.num_workers)]
        self.jobs = jobs
        self.queue: deque[tuple[int, int]] = deque()
        self.later: list[tuple[int, int]] = []
        self.running = 0
        self.empty_s = self.ended_s = 0.0
        self._enqueue([(index, 0) for index in range(len(jobs))])
        self._hand_out()

    def _enqueue(self, trees: list[tuple[int, int]]) -> None:
        if self.config.longest_first:
            trees = sorted(trees, key=lambda tree: self.jobs[tree[0]][tree[1]], reverse=True)
        self.queue.extend(trees)

    def _hand_out(self) -> None:
        """To the least busy workers with a free slot, as long as there is something."""
        while self.queue and self.idlest:
            number, worker = self.idlest[0]
            if number != self.in_flight[worker]:
                heapq.heappop(self.idlest)  # no longer so
                continue
            if number >= self.config.trees_in_flight:
                return
            heapq.heappop(self.idlest)
            self._start(worker, *self.queue.popleft())

    def _start(self, worker: int, problem: int, position: int) -> None:
        self.empty_s = self.root.now
        self.running += 1
        self._count(worker, +1)
        self.workers[worker].after(
            self.jobs[problem][position], lambda: self._ended(worker, problem, position)
        )

    def _ended(self, worker: int, problem: int, position: int) -> None:
        self.running -= 1
        self.ended_s = self.root.now
        self.writer.serve(self.config.write_s, _written)
        self._count(worker, -1)
        if position + 1 < len(self.jobs[problem]):
            if self.config.barriers:
                self.later.append((problem, position + 1))
            else:
                self.queue.appendleft((problem, position + 1))
        if not self.running and not self.queue and self.later:
            later, self.later = self.later, []
            self._enqueue(later)
        self._hand_out()

    def _count(self, worker: int, change: int) -> None:
        self.in_flight[worker] += change
        number = self.in_flight[worker]
        self.workers[worker].rate = self.speed(number) if number else 0.0
        heapq.heappush(self.idlest, (number, worker))


def _written() -> None:
    """Nobody waits for the writer."""
