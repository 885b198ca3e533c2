"""Preference pairs: nodes per second of one core, from trees in memory to groups with texts and ids.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_pairs [--store FOLDER] [--trees 120] [--repeats 3]

Prints Markdown. Trees are of `benchmarks.forest` in the sizes of rounds 1, 2 and 4 (rollouts x candidates), six in ten of
their answers right, and with `--store` those of a round's search; token ids are those of its stand-in tokenizer.
`linear pass` marks what leads where and ranks trajectories and does nothing else: the least that any rule must do. Sizes
are measured in turn, best of `--repeats` by CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forest import chunk_ids, grow_tree
from ppm.config import PairConfig
from ppm.groups import DropReason, PairKind, PairSet
from ppm.pairs import _outcomes, _ranked_answers, pair_set
from rstar.prompts import BARE
from rstar.store import Store
from rstar.tree import Tree

SIZES = ((8, 5), (16, 8), (64, 16))


def make_pairs(trees: Sequence[Tree]) -> tuple[float, float, PairSet]:
    """Wall and CPU seconds, and the pairs."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = pair_set(trees, config=PairConfig(), format=BARE, encode=chunk_ids, max_output_chars=2000)
    return time.perf_counter() - wall, time.process_time() - cpu, made


def linear_pass(trees: Sequence[Tree]) -> float:
    """CPU seconds."""
    cpu = time.process_time()
    for tree in trees:
        _outcomes(tree)
        _ranked_answers(tree)
    return time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path)
    parser.add_argument("--trees", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    forests = {
        f"{rollouts} x {candidates}": [
            grow_tree(f"p{i}", i, num_rollouts=rollouts, num_candidates=candidates)
            for i in range(options.trees)
        ]
        for rollouts, candidates in SIZES
    }
    if options.store:
        forests["store"] = list(Store(options.store).trees())
    best: dict[str, tuple[float, float, float]] = {}
    made: dict[str, PairSet] = {}
    for _ in range(options.repeats):
        for name, trees in forests.items():
            wall_s, cpu_s, made[name] = make_pairs(trees)
            best[name] = min(best.get(name, (cpu_s, wall_s, 1e9)), (cpu_s, wall_s, linear_pass(trees)))
    print("| trees | nodes | step pairs | final pairs | too alike | nodes/s (wall) | nodes/CPU-s "
          "| times a linear pass |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, (cpu_s, wall_s, linear_s) in best.items():
        report = made[name].report
        step, final = (report.num_pairs[kind] for kind in (PairKind.STEP, PairKind.FINAL))
        alike = report.dropped[DropReason.EDIT_DISTANCE]
        nodes = report.num_nodes
        print(
            f"| {name} | {nodes} | {step} | {final} | {alike} | {nodes / wall_s:,.0f} "
            f"| {nodes / cpu_s:,.0f} | {cpu_s / linear_s:.1f} |"
        )


if __name__ == "__main__":
    main()
