"""The simulated search beside the real one: makespans of searches of the embedded base model, predicted from another run.

    python -m benchmarks.bench_simulation [--problems 60] [--repeats 1] [--model rounds/base]

Prints Markdown. Calibration: passes of one engine over batches of several sizes give the time of a pass by its rows; one
search (seed 0) gives the CPU seconds per pass, execution and expansion of its processes and the shapes of its trees. Then
searches of other problems (seeds 1, 2, 3), with other numbers of trees at once, are run and simulated: once with trees drawn from the
calibration's ("other trees": a prediction), once with the very trees of that run ("same trees": the queueing alone).

All service times are CPU seconds, so that neighbours on the machine do not enter them. They do enter a real makespan: the
simulated machine has as many cores as the run could use, idle ones and its own; neighbours that take what the run leaves idle
make that too few, and the simulation too slow. Start-up is left out on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.tables import markdown
from rounds.curriculum import Level, Split, generate
from rounds.recipe import load
from rounds.simulation.search import Machines, ServiceTimes, simulate
from rounds.simulation.shapes import Shape, shape_of
from rounds.simulation.stations import StepTime
from rstar.backends.transformers import TransformersPolicy
from rstar.config import SearchConfig
from rstar.engines import EngineConfig, open_engines
from rstar.evaluation import SearchCounts
from rstar.grading import GraderConfig, ReferenceJudge
from rstar.problems import Problem
from rstar.prompts import BARE, render_prompt
from rstar.protocols import ExecutionVerdict, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.search import SearchTask, search_trees
from rstar.store import Store
from rstar.tree import Tree

REPLICAS = 2
MAX_ROWS = 128
BATCHES = (1, 2, 4, 8, 16)
"""Requests at once, 8 candidates each, from which a pass's time is learnt."""
IN_FLIGHT = (4, 16, 48)
"""Trees at once, of the searches that are predicted; 24 in the one that is learnt from."""


@dataclass(slots=True)
class Cpu:
    """CPU seconds by kind of process, and the machine's idle time."""

    own: float
    engines: float
    others: float
    idle: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(*(getattr(self, f.name) - getattr(earlier, f.name) for f in dataclasses.fields(self)))

    @property
    def total(self) -> float:
        return self.own + self.engines + self.others

    @classmethod
    def now(cls) -> Cpu:
        engines = others = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                spent = sum(process.cpu_times()[:4])
                if any("rstar.backends.worker" in word for word in process.cmdline()):
                    engines += spent
                else:
                    others += spent
            except psutil.NoSuchProcess:
                continue
        return cls(time.process_time(), engines, others, psutil.cpu_times().idle)


@dataclass(slots=True)
class Run:
    """What a real search took."""

    shapes: list[Shape]
    levels: list[str]
    wall_s: float
    cpu: Cpu
    counts: SearchCounts
    write_s: float
    steps: int
    rows: int
    new_prefix_tokens: int

    @property
    def cores(self) -> float:
        """That the run could have used."""
        return (self.cpu.total + max(0.0, self.cpu.idle)) / self.wall_s


async def passes(model: Path) -> StepTime:
    """Fit the CPU time of an engine's pass to its rows."""
    rows, seconds = [], []
    problems = generate(Split.TRAIN, Level.MEDIUM, max(BATCHES), 7)
    policy = TransformersPolicy(model, num_replicas=1, max_batch_rows=MAX_ROWS)
    sampling = dataclasses.replace(load("embedded", 1).search.sampling, max_step_tokens=96)
    try:
        await policy.start()
        for batch in (BATCHES[-1], *BATCHES):  # the first one warms up
            before, cpu = policy.stats(), Cpu.now()
            for repeat in range(3):
                requests = [
                    ProposeRequest(
                        prefix_ids=tuple(policy.encode(render_prompt(BARE, problem.question))),
                        num_candidates=8, seed=repeat, sampling=sampling, stop=("never",), group=problem.id,
                    )
                    for problem in problems[:batch]
                ]  # fmt: skip
                await asyncio.gather(*(policy.propose(request) for request in requests))
            done = policy.stats() - before
            rows.append(done.rows / done.steps)
            seconds.append((Cpu.now() - cpu).engines / done.steps)
    finally:
        await policy.aclose()
    row_s, base_s = np.polyfit(rows[1:], seconds[1:], 1)
    return StepTime(base_s=max(1e-6, float(base_s)), row_s=float(row_s))


async def search(model: Path, problems: Sequence[Problem], config: SearchConfig, in_flight: int) -> Run:
    """Search every problem once, as `rstar.campaign` does."""
    counts = SearchCounts()
    engine = EngineConfig(num_replicas=REPLICAS, max_batch_rows=MAX_ROWS)
    write_s = 0.0
    with tempfile.TemporaryDirectory() as folder, Store.create(folder).writer(round=1) as writer:
        async with open_engines(model, engine, SandboxConfig(), GraderConfig()) as (engines, grader):
            policy = engines.policy
            assert isinstance(policy, TransformersPolicy)
            tasks = [
                SearchTask(
                    tree=Tree(problem_id=p.id, question=p.question), judge=ReferenceJudge(grader, p.answer)
                )
                for p in problems
            ]
            before, began = Cpu.now(), time.perf_counter()
            async for result in search_trees(
                tasks, engines, config, max_trees_in_flight=in_flight, counts=counts
            ):
                assert not result.fault, result.fault
                write_began = time.perf_counter()
                await asyncio.to_thread(writer.append, result.tree)
                write_s += time.perf_counter() - write_began
            wall_s, cpu, done = time.perf_counter() - began, Cpu.now() - before, policy.stats()
    return Run(
        shapes=[shape_of(task.tree) for task in tasks],
        levels=[problem.level for problem in problems],
        wall_s=wall_s,
        cpu=cpu,
        counts=counts,
        write_s=write_s / len(tasks),
        steps=done.steps,
        rows=done.rows,
        new_prefix_tokens=done.prefill_tokens - done.cached_tokens,
    )


def service_times(step: StepTime, run: Run) -> ServiceTimes:
    """What one search says: its CPU seconds over what they were spent on."""
    expansions, executions = run.counts.expansions, run.counts.executions.total()
    late = run.counts.executions[ExecutionVerdict.TIMEOUT]
    factor = run.cpu.engines / (step.base_s * run.steps + step.row_s * run.rows)
    return ServiceTimes(
        step=StepTime(base_s=step.base_s * factor, row_s=step.row_s * factor),
        execution_s=(run.cpu.others - late * SandboxConfig().cpu_s) / (executions - late),
        timeout_s=SandboxConfig().cpu_s,
        loop_s=run.cpu.own / expansions,
        write_s=run.write_s,
        prefix_tokens=run.new_prefix_tokens / expansions,
    )


def predicted(times: ServiceTimes, shapes: Sequence[Shape], cores: float, in_flight: int) -> float:
    machines = Machines(
        engines_per_worker=REPLICAS,
        cores=cores,
        engines_on_cores=True,
        sandbox_servers=SandboxConfig().num_shards or psutil.cpu_count() or 1,
        max_rows=MAX_ROWS,
        trees_in_flight=in_flight,
    )
    return simulate(shapes, machines, times).makespan_s


def drawn(run: Run, levels: Sequence[str], seed: int) -> list[Shape]:
    """Shapes of the run's trees, drawn by level."""
    chance = random.Random(seed)
    by_level = {
        level: [s for s, own in zip(run.shapes, run.levels, strict=True) if own == level]
        for level in set(levels)
    }
    return [chance.choice(by_level[level]) for level in levels]


def sample(num_problems: int, seed: int) -> list[Problem]:
    """As many of each level, mixed."""
    problems = [p for level in Level for p in generate(Split.TRAIN, level, num_problems // len(Level), seed)]
    random.Random(seed).shuffle(problems)
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", type=Path, default=Path("rounds/base"))
    arguments = parser.parse_args()
    config = load("embedded", 1).search
    step = asyncio.run(passes(arguments.model))
    asyncio.run(search(arguments.model, sample(6, 2), config, 6))  # what happens once: imports, caches
    first = asyncio.run(search(arguments.model, sample(2 * arguments.problems, 0), config, 24))
    times = service_times(step, first)
    print(f"measured: {times}, cores {first.cores:.2f}, {first.wall_s:.1f} s\n")
    rows, errors = [], []
    for repeat in range(arguments.repeats):
        for index, in_flight in enumerate(IN_FLIGHT, start=1):
            problems = sample(arguments.problems, index + repeat * len(IN_FLIGHT))
            run = asyncio.run(search(arguments.model, problems, config, in_flight))
            same = predicted(times, run.shapes, run.cores, in_flight)
            other = statistics.mean(
                predicted(times, drawn(first, run.levels, seed), run.cores, in_flight) for seed in range(8)
            )
            errors.append(abs(same / run.wall_s - 1))
            rows.append([
                str(in_flight), f"{run.cores:.2f}", f"{run.wall_s:.1f}", f"{same:.1f}", f"{same / run.wall_s - 1:+.0%}",
                f"{other:.1f}", f"{other / run.wall_s - 1:+.0%}",
            ])  # fmt: skip
    header = [
        "trees at once",
        "cores to be had",
        "real, s",
        "same trees, s",
        "error",
        "other trees, s",
        "error",
    ]
    print(markdown(f"{arguments.problems} trees of the embedded base model, 8 x 5", header, rows))
    print(f"mean error with the same trees {statistics.mean(errors):.0%}, largest {max(errors):.0%}")


if __name__ == "__main__":
    main()
