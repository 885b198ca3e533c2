"""Speed of grading on 800 labelled pairs, and the worst case on hostile input.

    python benchmarks/bench_grading.py            # both tables, about two minutes
    python benchmarks/bench_grading.py --pairs    # the first table alone, seconds

First table: the 800 pairs of `math_cot_100.jsonl` (../shared/data), each pass with an empty cache and a new process
every time; CPU time is this process and its children, user and system. Beside it, in turn, the plain use
of math-verify (parse both, verify) in this process, with its imports not counted. The third row is the slow path: distinct
symbolic pairs, all of which go to a worker, whose start is counted.
Second table: wall time from question to verdict, default limits, a worker ready.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rstar.grading import Grader

ROOT = Path(__file__).resolve().parents[1]
PAIRS_FILE = ROOT.parent / "shared" / "data" / "math_cot_100.jsonl"
NUM_PASSES = 5

HOSTILE = {
    "`9^{9^{9^{9}}}`": "9^{9^{9^{9}}}",
    "`10000000!`": "10000000!",
    "`x+3^{3^{17}}`": "x+3^{3^{17}}",
    "900 nested braces": "{" * 900 + "x" + "}" * 900,
    "2,000 nested braces (over the length cap)": "{" * 2000 + "x" + "}" * 2000,
    "150 nested fractions": r"\frac{" * 150 + "x" + "}{2}" * 150,
    "300 factors (x+1)": "(x+1)" * 300,
    "a million characters": "1+" * 500_000 + "1",
    "`1e999999999x`": "1e999999999x",
}


def labelled_pairs() -> list[tuple[str, str, bool]]:
    """(answer, reference, label) of the shared file."""
    rows = [json.loads(line) for line in PAIRS_FILE.read_text(encoding="utf-8").splitlines()]
    return [
        (answer, row["gt"], label)
        for row in rows
        for answer, label in zip(row["pred"], row["score"], strict=True)
    ]


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def grade_pairs() -> int:
    with Grader() as grader:
        return sum(
            grader.grade_sync(answer, reference).equal == label
            for answer, reference, label in labelled_pairs()
        )


def grade_symbolic_pairs() -> int:
    with Grader() as grader:
        verdicts = [grader.grade_sync(f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(100)]
    return sum(verdict.equal for verdict in verdicts)


def verify_pairs() -> int:
    """The plain use of math-verify, warmed up, its imports not counted."""
    from math_verify import parse, verify

    return sum(
        bool(verify(parse(f"${reference}$"), parse(f"${answer}$"))) == label
        for answer, reference, label in labelled_pairs()
    )


def measured(work: Callable[[], int]) -> tuple[float, float, int]:
    """(CPU seconds, wall seconds, result) of one call."""
    cpu, wall = cpu_s(), time.perf_counter()
    result = work()
    return cpu_s() - cpu, time.perf_counter() - wall, result


PASSES: dict[str, tuple[Callable[[], int], int]] = {
    "800 pairs, `Grader`": (grade_pairs, 800),
    "800 pairs, plain math-verify": (verify_pairs, 800),
    "100 distinct polynomial identities, `Grader` (worker start included)": (grade_symbolic_pairs, 100),
}


def one_pass(name: str) -> tuple[float, float, int]:
    """One pass in a new process, so that every cache is cold."""
    out = subprocess.run(
        [sys.executable, __file__, "--one", name],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    cpu, wall, result = json.loads(out.stdout)
    return cpu, wall, result


def print_pairs() -> None:
    samples: dict[str, list[tuple[float, float, int]]] = {name: [] for name in PASSES}
    for _ in range(NUM_PASSES):
        for name in PASSES:
            samples[name].append(one_pass(name))
    print("| what | pairs per CPU-second (best, median) | wall s (median) | agree with the labels |")
    print("|---|---|---|---|")
    for name, (_, num_pairs) in PASSES.items():
        cpu = [sample[0] for sample in samples[name]]
        wall = statistics.median(sample[1] for sample in samples[name])
        rate = f"{num_pairs / min(cpu):,.0f}, {num_pairs / statistics.median(cpu):,.0f}"
        print(f"| {name} | {rate} | {wall:.3f} | {samples[name][0][2]} of {num_pairs} |")


def print_hostile() -> None:
    print("\n| hostile answer, against `x+1` | verdict | wall s |\n|---|---|---|")
    with Grader() as grader:
        for index, (name, text) in enumerate(HOSTILE.items()):
            grader.grade_sync(f"x+{index}", f"{index}+x")  # a fresh worker's start is not this input's fault
            start = time.perf_counter()
            verdict = grader.grade_sync(text, "x+1")
            print(f"| {name} | {verdict.reason} | {time.perf_counter() - start:.2f} |", flush=True)
        config = grader.config
    print(
        f"\nLimits: {config.cpu_limit_s:g} s of the worker's CPU time, {config.deadline_s:g} s of wall time."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", action="store_true", help="only the first table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not PAIRS_FILE.exists():
        sys.exit(f"{PAIRS_FILE.name} is missing; it belongs in ../shared/data beside the repository")
    if arguments.one:
        if PASSES[arguments.one][0] is verify_pairs:
            import math_verify

            math_verify.verify(math_verify.parse("$1$"), math_verify.parse("$2$"))
        print(json.dumps(measured(PASSES[arguments.one][0])))
        return
    print_pairs()
    if not arguments.pairs:
        print_hostile()


if __name__ == "__main__":
    main()
