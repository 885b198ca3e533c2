"""How long one question takes: `python -m benchmarks.bench_solver [--run runs/embedded]`.

1. The embedded models, warm: from the question to the first step shown, and to the answer at the default budget.
2. Eight rollouts in flight against one, where the policy's latency is what costs (a scripted policy that answers after 50 ms,
   the value model of `examples`): speed, and the share of right answers.
3. `import rstar` and `rstar --help` in a fresh interpreter.

Ratios hold anywhere; seconds are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.tables import markdown
from examples.value_model import DoesWhatIsAsked
from rounds.curriculum import Level, Split, generate
from rounds.solve import RUN, latest_models
from rstar import Finished, SearchConfig, Solver
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.protocols import Candidate, ProposeRequest

LATENCY_S = 0.05
IN_FLIGHT = 8
STARTS = 5


class LatencyBound(ScriptedPolicy):
    """A policy that takes its time however little it is asked."""

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        await asyncio.sleep(LATENCY_S)
        return await super().propose(request)


def times(solver: Solver, questions: Sequence[str]) -> tuple[float, float]:
    """Median seconds to the first event and to the answer, questions asked one after the other."""

    async def ask(question: str) -> tuple[float, float]:
        began, first = time.perf_counter(), None
        async for event in solver.stream(question):
            if first is None:
                first = time.perf_counter() - began
            if isinstance(event, Finished):
                return first, time.perf_counter() - began
        raise AssertionError("a stream ends with its answer")

    found = [asyncio.run(ask(question)) for question in questions]
    return median(one for one, _ in found), median(other for _, other in found)


def embedded(run: Path, count: int) -> list[tuple[str, ...]]:
    """Rows of the first table."""
    models = latest_models(run)
    rows: list[tuple[str, ...]] = []
    for level in Level:
        questions = [problem.question for problem in generate(Split.EVAL, level, count + 1, 0)]
        with Solver(models.policy, ppm=models.ppm) as solver:
            solver.solve(questions[0])  # warm
            first, answer = times(solver, questions[1:])
        rows.append((level, f"{first:.2f} s", f"{answer:.2f} s"))
    return rows


def in_flight(count: int) -> list[tuple[str, ...]]:
    """Rows of the second table: the same questions and seeds, one rollout in flight and several."""
    world = ChainWorld(num_operations=8, slip=0.3)
    problems = world.problems(count)
    rows: list[tuple[str, ...]] = []
    base = None
    for parallel in (1, IN_FLIGHT):
        search = SearchConfig(num_rollouts=32, num_candidates=4, parallel_rollouts=parallel)
        with Solver(LatencyBound(world.respond), ppm=DoesWhatIsAsked(), search=search) as solver:
            solver.open()
            began = time.perf_counter()
            found = [solver.solve(problem.question) for problem in problems]
            seconds = time.perf_counter() - began
        base = base or seconds
        right = sum(one.answer == problem.answer for one, problem in zip(found, problems, strict=True))
        rollouts = sum(one.cost.rollouts for one in found)
        rows.append(
            (
                str(parallel),
                f"{seconds / count:.2f} s",
                f"{base / seconds:.1f}×",
                f"{right} of {count}",
                str(rollouts),
            )
        )
    return rows


def starts() -> list[tuple[str, ...]]:
    """Rows of the third table: the least of several starts, above that of Python itself."""

    def least(*command: str) -> float:
        found = []
        for _ in range(STARTS):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            found.append(time.perf_counter() - began)
        return min(found)

    python = least("-c", "pass")
    return [
        ("python alone", f"{python:.2f} s", ""),
        ("import rstar", f"{least('-c', 'import rstar'):.2f} s", "0.15 s"),
        ("rstar --help", f"{least('-m', 'rounds.cli', '--help'):.2f} s", "0.3 s"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=RUN, help="a run whose last round has the models")
    parser.add_argument("--questions", type=int, default=10)
    options = parser.parse_args(arguments)
    print(f"models: {latest_models(options.run).origin}\n")
    print(
        markdown(
            "The embedded models, warm",
            ["level", "first step", "answer"],
            embedded(options.run, options.questions),
        )
    )
    header = ["rollouts in flight", "per question", "speed", "right", "rollouts"]
    print(markdown("Rollouts in flight, latency-bound policy", header, in_flight(options.questions)))
    print(markdown("Starts", ["what", "measured", "aim"], starts()))


if __name__ == "__main__":
    main()
