"""Preparation of problems at the size of the paper's pool: problems per second, and memory at its peak.

    python -m benchmarks.bench_preparation [--problems 747000] [--evaluation 6000] [--file]

Prints Markdown. Questions are made of words with the frequencies of a text (Zipf), about 60 a question, one in ten a repetition
in other dressing, one in two hundred with 13 words of an evaluation question; that exactly those are left out is checked.
`--file` also reads them from a JSONL file, and writes what is kept. CPU time is of this process.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.tables import markdown
from rounds.preparation.config import PreparationConfig
from rounds.preparation.contamination import EvaluationIndex
from rounds.preparation.prepare import Reason, prepare
from rstar.grading import Grader
from rstar.problems import Problem, read_problems, write_problems

T = TypeVar("T")

NUM_WORDS = 20_000
MEAN_WORDS = 60
REPEATED, LEAKED = 10, 200
"""One in so many."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=747_000)
    parser.add_argument("--evaluation", type=int, default=6_000)
    parser.add_argument("--file", action="store_true")
    arguments = parser.parse_args()
    evaluation, problems = generate(arguments.problems, arguments.evaluation)
    before_mb = peak_mb()
    rows: list[list[str]] = []

    def timed(what: str, work: Callable[[], T]) -> T:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        result = work()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        rate = arguments.problems / cpu_s
        rows.append([what, f"{cpu_s:.1f}", f"{wall_s:.1f}", f"{rate:,.0f}", f"{peak_mb() - before_mb:,.0f}"])
        return result

    index = timed("n-grams of the evaluation set", lambda: EvaluationIndex(questions(evaluation), ngram=13))
    timed("13-gram comparison alone", lambda: sum(bool(index.shared(p.question)) for p in problems))
    with Grader() as grader:
        found = timed(
            "whole preparation", lambda: prepare(problems, evaluation, PreparationConfig(), grader=grader)
        )
    counts = found.counts()
    assert set(counts) == {str(Reason.NEAR_DUPLICATE), str(Reason.CONTAMINATED)}, counts
    assert counts[Reason.NEAR_DUPLICATE] == arguments.problems // REPEATED
    leaked = {problem.id for problem in problems if problem.id.startswith("leak")}
    assert {drop.problem_id for drop in found.drops if drop.reason is Reason.CONTAMINATED} == leaked
    if arguments.file:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pool.jsonl"
            write_problems(path, problems)
            timed("reading a JSONL file", lambda: read_problems(path))
            timed("writing what is kept", lambda: write_problems(path, found.problems))
    title = f"{arguments.problems:,} problems against {arguments.evaluation:,}: {len(found.problems):,} kept"
    print(
        markdown(
            title, ["part", "CPU s", "wall s", "problems per CPU-second", "peak memory above start, MB"], rows
        )
    )


def questions(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.id, problem.question) for problem in problems]


def generate(num_problems: int, num_evaluation: int) -> tuple[list[Problem], list[Problem]]:
    """Evaluation problems, and the pool."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(NUM_WORDS)]
    weights = [1 / rank for rank in range(1, NUM_WORDS + 1)]

    def question() -> list[str]:
        length = chance.randint(MEAN_WORDS // 2, MEAN_WORDS * 3 // 2)
        return chance.choices(vocabulary, weights, k=length)

    evaluated = [question() for _ in range(num_evaluation)]
    evaluation = [Problem(id=f"e{i}", question=" ".join(of), answer="1") for i, of in enumerate(evaluated)]
    pool: list[Problem] = []
    for i in range(num_problems):
        if i % REPEATED == REPEATED - 1:
            repeated = pool[i - 1].question
            pool.append(Problem(id=f"again{i}", question=f"{repeated.upper()} ?", answer="1"))
        elif i % LEAKED == 1:
            start = chance.randrange(len(given := chance.choice(evaluated)) - 12)
            of = [*question(), *given[start : start + 13], *question()]
            pool.append(Problem(id=f"leak{i}", question=" ".join(of), answer="1"))
        else:
            pool.append(Problem(id=f"p{i}", question=" ".join(question()), answer="1"))
    return evaluation, pool


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
