"""Whole engine, no model cost: nodes per second with every step run in the isolated sandbox and every answer graded.

    python -m benchmarks.bench_engine [--trees 16] [--rollouts 8] [--candidates 8] [--merge] [--profile]

Prints Markdown. A scripted policy solves chain problems (depth 6 with 3 operations). Its steps carry a comment of their own, so that
equal candidates do not merge and all of them run; with `--merge` they do, as they would in life. The same trees are
grown four times in turn, with the answers of sandbox and grader real or remembered from a first run, which shows what each part
costs; that the trees are equal is checked. CPU-seconds are of this process and all its descendants, those that
have ended included; start-up of the sandbox and the grader is left out (it happens once per run).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from rstar.backends.scripted import ChainWorld, Respond, ScriptedPolicy
from rstar.config import SearchConfig
from rstar.evaluation import Engines, SearchCounts
from rstar.grading import Grader, ReferenceJudge
from rstar.problems import Problem
from rstar.protocols import AnswerJudge, ExecutionResult, Reward, RunRequest, Sandbox
from rstar.sandbox import SandboxPool
from rstar.search import SearchTask, search_trees
from rstar.steps import END_OF_ANSWER
from rstar.tree import Tree, check_invariants


@dataclass
class Recorder:
    """Passes requests to a real sandbox and remembers the answers, or answers from memory at no cost."""

    real: Sandbox | None
    results: dict[tuple[str, tuple[str, ...], str], ExecutionResult] = field(default_factory=dict)

    async def run(self, request: RunRequest) -> ExecutionResult:
        key = (request.group, request.history, request.code)
        if self.real is None:
            return self.results[key]
        result = await self.real.run(request)
        self.results[key] = result
        return result

    def release(self, group: str) -> None:
        if self.real is not None:
            self.real.release(group)

    async def aclose(self) -> None:
        pass


@dataclass
class RecordedJudge:
    """Passes questions to a real judge and remembers the answers, or answers from memory at no cost."""

    real: AnswerJudge | None
    classes: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    rewards: dict[str, Reward | None] = field(default_factory=dict)

    async def equal(self, answers: Sequence[str]) -> list[int]:
        key = tuple(answers)
        if self.real is not None:
            self.classes[key] = await self.real.equal(answers)
        return self.classes[key]

    async def judge(self, answer: str) -> Reward | None:
        if self.real is not None:
            self.rewards[answer] = await self.real.judge(answer)
        return self.rewards[answer]


@dataclass
class Cost:
    """What one run took."""

    wall_s: float = 0.0
    own_cpu_s: float = 0.0
    children_cpu_s: float = 0.0
    nodes: int = 0
    candidates: int = 0
    executions: int = 0

    @property
    def cpu_s(self) -> float:
        return self.own_cpu_s + self.children_cpu_s


def descendants_cpu_s() -> float:
    """CPU seconds of all living descendants and of those of their children that have ended."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    ended = psutil.Process().cpu_times()
    return total + ended.children_user + ended.children_system


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    wall, own, children = time.perf_counter(), time.process_time(), descendants_cpu_s()
    yield
    cost.wall_s = time.perf_counter() - wall
    cost.own_cpu_s = time.process_time() - own
    cost.children_cpu_s = descendants_cpu_s() - children


def with_comments_of_their_own(respond: Respond) -> Respond:
    """Steps that differ in text, so that none merge. Answers stay as they are."""

    def varied(prefix: str, chance: random.Random) -> str:
        text = respond(prefix, chance)
        return text if text.endswith(END_OF_ANSWER) else f"# Way {chance.randrange(10**6)}\n{text}"

    return varied


async def grow(
    problems: Sequence[Problem],
    respond: Respond,
    config: SearchConfig,
    sandbox: Sandbox,
    judges: Sequence[AnswerJudge],
) -> tuple[list[Tree], SearchCounts]:
    """Search every problem once; trees in the order of the problems."""
    counts = SearchCounts()
    engines = Engines(policy=ScriptedPolicy(respond), sandbox=sandbox)
    tasks = [
        SearchTask(tree=Tree(problem_id=problem.id, question=problem.question), judge=judge)
        for problem, judge in zip(problems, judges, strict=True)
    ]
    async for result in search_trees(tasks, engines, config, counts=counts):
        assert not result.fault, result.fault
        check_invariants(result.tree)
    return [task.tree for task in tasks], counts


MODES = {  # name: (real sandbox, real grader)
    "every layer on": (True, True),
    "sandbox alone real": (True, False),
    "grader alone real": (False, True),
    "search core alone": (False, False),
}


async def measure(arguments: argparse.Namespace) -> dict[str, list[Cost]]:
    world = ChainWorld(num_operations=arguments.operations)
    problems = world.problems(arguments.trees)
    respond = world.respond if arguments.merge else with_comments_of_their_own(world.respond)
    config = SearchConfig(num_rollouts=arguments.rollouts, num_candidates=arguments.candidates)
    costs: dict[str, list[Cost]] = {mode: [] for mode in MODES}
    async with SandboxPool() as pool:
        recorder = Recorder(pool)
        with Grader() as warm:  # starts what happens once: workers, imports
            judges = [RecordedJudge(ReferenceJudge(warm, problem.answer)) for problem in problems]
            expected, _ = await grow(problems, respond, config, recorder, judges)
        for _ in range(arguments.repeats):
            for mode, (real_sandbox, real_grader) in MODES.items():
                with Grader() as grader:  # a new one: its cache of verdicts is empty
                    recorder.real = pool if real_sandbox else None
                    for judge, problem in zip(judges, problems, strict=True):
                        judge.real = ReferenceJudge(grader, problem.answer) if real_grader else None
                    cost = Cost()
                    with measured(cost):
                        trees, counts = await grow(problems, respond, config, recorder, judges)
                    assert trees == expected, "the same seeds gave other trees"
                    cost.nodes, cost.executions = counts.nodes, counts.executions.total()
                    cost.candidates = counts.expansions * arguments.candidates
                    costs[mode].append(cost)
        if arguments.profile:
            recorder.real = None
            for judge in judges:
                judge.real = None
            with cProfile.Profile() as profile:
                await grow(problems, respond, config, recorder, judges)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return costs


def table(costs: dict[str, list[Cost]]) -> str:
    """Medians over the repeats."""
    lines = [
        "| parts | nodes/s wall | nodes/CPU-s | candidates/CPU-s | CPU ms/node: this process | its children |",
        "|---|---|---|---|---|---|",
    ]
    for mode, runs in costs.items():
        per_wall, per_cpu, candidates, own_ms, children_ms = (
            statistics.median(values)
            for values in (
                [run.nodes / run.wall_s for run in runs],
                [run.nodes / run.cpu_s for run in runs],
                [run.candidates / run.cpu_s for run in runs],
                [1000 * run.own_cpu_s / run.nodes for run in runs],
                [1000 * run.children_cpu_s / run.nodes for run in runs],
            )
        )
        lines.append(
            f"| {mode} | {per_wall:.0f} | {per_cpu:.0f} | {candidates:.0f} | {own_ms:.2f} | {children_ms:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("trees", 16),
        ("rollouts", 8),
        ("candidates", 8),
        ("operations", 3),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--merge", action="store_true", help="let equal candidates merge, as they do in life")
    parser.add_argument("--profile", action="store_true", help="also print where the search core's time goes")
    arguments = parser.parse_args()
    costs = asyncio.run(measure(arguments))
    first = costs["every layer on"][0]
    print(
        f"{arguments.trees} trees, {arguments.rollouts} rollouts of {arguments.candidates} candidates, depth "
        f"{arguments.operations + 3}: {first.nodes} nodes, {first.candidates} candidates, {first.executions} steps run\n"
    )
    print(table(costs))


if __name__ == "__main__":
    main()
