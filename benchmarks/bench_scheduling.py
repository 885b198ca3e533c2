"""Slot utilisation with injected latency: asynchronous search beside a lock-step scheduler (`benchmarks.lockstep`).

    python -m benchmarks.bench_scheduling [--trees 768] [--rollouts 4] [--slots 256] [--in-flight 384]

Prints Markdown. A slot decodes one candidate at a time, as a sequence slot of vLLM does: 256 of them, first come first
served, freed when their candidate ends. A candidate takes log-normal time, 95 % of it within 50-500 ms, cut to that range; a
request returns with its last candidate. A program takes 1-20 ms, one in a hundred the 4 s after which it would be stopped; 128 run at once. Time is
virtual: it passes only when everything waits, so the figures are those of scheduling alone, exact and the same on
every machine. Latencies belong to the request, not to the moment, so all schedulers have the same work; that they grow
the same trees is checked.

Utilisation = busy slot-seconds / (slots * seconds). "While work is available" ends when the last tree starts; "whole run"
includes the tail, in which too few trees are left to fill the slots, whoever schedules them.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.lockstep import search_in_lockstep
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.config import SearchConfig
from rstar.evaluation import Engines
from rstar.protocols import Candidate, ExecutionResult, ProposeRequest, RunRequest
from rstar.search import SearchTask, search_trees
from rstar.seeds import rng
from rstar.tree import Tree, check_invariants
from tests.rstar.fakes import InProcessSandbox, TextJudge
from tests.rstar.virtual_clock import run_on_virtual_clock

SHORTEST_S, LONGEST_S = 0.05, 0.5
MEDIAN_S = math.sqrt(SHORTEST_S * LONGEST_S)
SIGMA = math.log(LONGEST_S / MEDIAN_S) / 1.96  # 95 % within the range

PROGRAM_S = (0.001, 0.020)
SLOW_PROGRAM_S = 4.0
SLOW_RATE = 0.01
PROGRAMS_AT_ONCE = 128


class Slots:
    """A number of places, first come first served, that remember for how long they were busy."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = asyncio.Semaphore(count)
        self._busy_s = 0.0
        self._since: dict[int, float] = {}

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        async with self._free:
            key, now = id(asyncio.current_task()), asyncio.get_running_loop().time
            self._since[key] = now()
            try:
                yield
            finally:
                self._busy_s += now() - self._since.pop(key)

    def busy_s(self) -> float:
        """Slot-seconds busy until now."""
        now = asyncio.get_running_loop().time()
        return self._busy_s + sum(now - since for since in self._since.values())


class SlotPolicy(ScriptedPolicy):
    """Each candidate holds a slot for its time."""

    def __init__(self, world: ChainWorld, slots: Slots) -> None:
        super().__init__(world.respond)
        self._slots = slots

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        await asyncio.gather(*(self._decode(request.seed, i) for i in range(request.num_candidates)))
        return await super().propose(request)

    async def _decode(self, seed: int, index: int) -> None:
        seconds = rng(seed, "latency", index).lognormvariate(math.log(MEDIAN_S), SIGMA)
        async with self._slots.one():
            await asyncio.sleep(min(LONGEST_S, max(SHORTEST_S, seconds)))


class SlowSandbox(InProcessSandbox):
    """Runs programs in this process, each for its time; `PROGRAMS_AT_ONCE` at once."""

    def __init__(self) -> None:
        super().__init__()
        self._places = asyncio.Semaphore(PROGRAMS_AT_ONCE)

    async def run(self, request: RunRequest) -> ExecutionResult:
        chance = rng(0, request.group, *request.history, request.code)
        seconds = SLOW_PROGRAM_S if chance.random() < SLOW_RATE else chance.uniform(*PROGRAM_S)
        async with self._places:
            await asyncio.sleep(seconds)
        return await super().run(request)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one scheduler did."""

    trees: list[Tree]
    seconds: float
    """Virtual."""
    utilisation: float
    utilisation_while_available: float | None
    """None where every tree started at once."""


Schedule = Callable[[Iterable[SearchTask], Engines, SearchConfig], Awaitable[None]]


def run(schedule: Schedule, arguments: argparse.Namespace) -> Run:
    """Search the same problems under `schedule`, on a clock of its own."""
    world = ChainWorld(num_operations=3)
    config = SearchConfig(num_rollouts=arguments.rollouts, num_candidates=arguments.candidates)
    problems = world.problems(arguments.trees)
    trees = [Tree(problem_id=problem.id, question=problem.question) for problem in problems]
    at_last_start = (0.0, 0.0)

    async def main() -> tuple[float, float]:
        nonlocal at_last_start
        slots, clock = Slots(arguments.slots), asyncio.get_running_loop().time

        def tasks() -> Iterator[SearchTask]:
            nonlocal at_last_start
            for tree, problem in zip(trees, problems, strict=True):
                at_last_start = (clock(), slots.busy_s())
                yield SearchTask(tree=tree, judge=TextJudge(problem.answer))

        await schedule(tasks(), Engines(policy=SlotPolicy(world, slots), sandbox=SlowSandbox()), config)
        return clock(), slots.busy_s()

    (seconds, busy_s), _ = run_on_virtual_clock(main())
    for tree in trees:
        check_invariants(tree)
    started_s, busy_by_then_s = at_last_start
    return Run(
        trees=trees,
        seconds=seconds,
        utilisation=busy_s / (arguments.slots * seconds),
        utilisation_while_available=busy_by_then_s / (arguments.slots * started_s) if started_s else None,
    )


def asynchronous(max_trees_in_flight: int) -> Schedule:
    async def schedule(tasks: Iterable[SearchTask], engines: Engines, config: SearchConfig) -> None:
        async for result in search_trees(tasks, engines, config, max_trees_in_flight=max_trees_in_flight):
            assert not result.fault, result.fault

    return schedule


def lockstep(batch_size: int) -> Schedule:
    async def schedule(tasks: Iterable[SearchTask], engines: Engines, config: SearchConfig) -> None:
        waiting = iter(tasks)
        while batch := [task for _, task in zip(range(batch_size), waiting, strict=False)]:
            await search_in_lockstep(batch, engines, config)

    return schedule


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("trees", 768), ("rollouts", 4), ("candidates", 8), ("slots", 256), ("in-flight", 384),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    at_once = arguments.in_flight
    schedulers = {
        f"asynchronous, {at_once} trees in flight": asynchronous(at_once),
        f"asynchronous, {at_once // 2} trees in flight": asynchronous(at_once // 2),
        f"lock-step, batches of {at_once} trees": lockstep(at_once),
        f"lock-step, all {arguments.trees} trees at once": lockstep(arguments.trees),
    }
    print(
        f"{arguments.trees} trees, {arguments.rollouts} rollouts of {arguments.candidates} candidates, {arguments.slots} slots\n"
    )
    print("| scheduler | utilisation while work is available | whole run | virtual seconds | relative |")
    print("|---|---|---|---|---|")
    first: Run | None = None
    for name, schedule in schedulers.items():
        found = run(schedule, arguments)
        first = first or found
        assert found.trees == first.trees, "the schedulers grew different trees"
        available = found.utilisation_while_available
        print(
            f"| {name} | {'-' if available is None else f'{available:.1%}'} | {found.utilisation:.1%} "
            f"| {found.seconds:.1f} | {found.seconds / first.seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
