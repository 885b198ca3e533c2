"""The experiments behind decisions on which the sources are silent or disagree (docs/method.md), on a finished run.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_decisions [EXPERIMENT ...] [--run runs/embedded] [--seeds 0 1] [--round 2]
                                                           [--problems 60] [--pairs 1200] [--searched 20]

`unvisited_score`: infinity against 0. Policy r1 searches the first `--problems` held-out problems of each level,
terminal-guided, with the search settings of round 1.
`score_bound`: tanh against none. The preference model of `--round` is trained again with each, and each guides policy
and search settings of that round's evaluation on the first `--searched` held-out problems of each level, 1 tree each.
`pair_filters`: the preference model of `--round` is trained again on pairs kept by other thresholds. (Siblings of one text
are one node, so a `min_edit_distance` of 0 is one of 1.)
`earlier_pairs`: it is trained again without and with the pairs of earlier rounds.

Trainings use the trees of problems drawn until they have `--pairs` pairs before any filter, a quarter of the problems held
out to test on: each arm of a seed learns from and is tested on the same problems. What is tested is one fixed set for all
arms: all pairs before any filter (`arms` says why); the columns of close pairs are those that a strict filter would have
left out. `--round` is 2 (1 where there is no other): the first whose model guides a search.

Prints Markdown. Shares are mean and range over seeds; differences are from the first row, paired by problem and pooled
over seeds, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.__main__ import NOTHING_TO_MEASURE
from benchmarks.arms import Arm, ArmTable, ByProblem, difference, trained_and_tested
from benchmarks.finished import FinishedRun
from benchmarks.tables import markdown, spread
from policy.attempts import Attempt, attempts_of, by_problem, grade
from policy.evaluate import Evaluation
from policy.statistics import ALL_LEVELS
from ppm.config import PairConfig, ScoreBound
from ppm.scorer import PPMScorer
from rounds.artifact import read_manifest
from rounds.evaluation import LEVELS
from rounds.machine import describe_machine
from rounds.searching import refuse_faults
from rstar.campaign import search_into_store
from rstar.config import Guidance, SearchConfig, build
from rstar.engines import EngineConfig
from rstar.grading import Grader, GraderConfig
from rstar.problems import Problem
from rstar.sandbox import SandboxConfig
from rstar.searcher import OpenValue
from rstar.seeds import derive
from rstar.selection import Method
from rstar.store import Store
from rstar.tree import ROOT, Tree

MARGINS = (0.5, 0.0, 0.25, 1.0)
DISTANCES = (1, 5, 20)
"""The first of each are what the other is combined with."""


def main() -> None:
    """Run the experiments asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--round", type=int, help="default: 2, or 1 where there is no other")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=1200)
    parser.add_argument("--searched", type=int, default=20)
    options = parser.parse_args()
    if unknown := set(options.experiments) - EXPERIMENTS.keys():
        parser.error(f"no experiment {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}")
    rounds = [options.round] if options.round else [2, 1]
    found = next((i for i in rounds if read_manifest(options.run / f"round{i}" / "system")), None)
    if found is None:
        print(f"{options.run} has no finished round {rounds[-1]}; run `make round{rounds[-1]}`", file=sys.stderr)  # fmt: skip
        raise SystemExit(NOTHING_TO_MEASURE)
    run = FinishedRun(options.run, found)
    print(f"Machine: {describe_machine()}; {options.run}, seeds {', '.join(map(str, options.seeds))}\n")
    for name in options.experiments or EXPERIMENTS:
        print(EXPERIMENTS[name](run, options), flush=True)


def unvisited_score(run: FinishedRun, options: argparse.Namespace) -> str:
    """What an unvisited child is worth to UCT: the same problems, policy and rollouts."""
    problems = run.held_out(options.problems)
    levels = {problem.id: problem.level for problem in problems}
    settings = run.settings("round1/search")
    search = build(SearchConfig, settings["search"])
    rows: list[list[str]] = []
    first: ByProblem = {}
    for score in (math.inf, 0.0):
        solved: ByProblem = defaultdict(list)
        trees: list[Tree] = []
        distinct = right = 0
        for seed in options.seeds:
            arm = dataclasses.replace(search, guidance=Guidance.TERMINAL, unvisited_score=score)
            found = searched(run, problems, "round1/policy", arm, settings, seed)
            attempts = by_problem(graded(found, problems, settings))
            answers = [one for problem in attempts for tree in problem.trees for one in tree.answers]
            distinct += len({(one.problem_id, one.answer_class) for one in answers})
            right += sum(one.verified for one in answers)
            for tree in found:
                solved[tree.problem_id].append(float(tree.solved))
            trees += found
        rows.append([
            f"{score:g}", *coverage_by_level(solved, levels), difference(first or solved, solved),
            f"{distinct / len(trees):.2f}", f"{right / len(trees):.2f}", f"{statistics.mean(root_children_tried(trees)):.1%}",
            f"{statistics.mean(tree.num_rollouts for tree in trees):.1f}",
            f"{statistics.mean(tree.num_tokens for tree in trees):,.0f}",
        ])  # fmt: skip
        first = first or solved
    header = [
        "`unvisited_score`", *(f"solved, {level}" for level in [*LEVELS, ALL_LEVELS]), "difference", "distinct answers",
        "right trajectories", "root children tried", "rollouts", "tokens",
    ]  # fmt: skip
    title = f"`unvisited_score`: {len(problems)} problems, {search.num_rollouts} x {search.num_candidates}, per tree"
    return markdown(title, header, rows)


def coverage_by_level(solved: ByProblem, levels: Mapping[str, str]) -> list[str]:
    """Per level and for all: the share of solved problems, mean and range over seeds."""
    columns = []
    for level in [*LEVELS, ALL_LEVELS]:
        by_seed = zip(
            *(outcome for i, outcome in solved.items() if level in (levels[i], ALL_LEVELS)), strict=True
        )
        columns.append(spread([*map(statistics.mean, by_seed)]))
    return columns


def root_children_tried(trees: Sequence[Tree]) -> Iterator[float]:
    """Of each tree with a live child of its root: the share of them through which a rollout went."""
    for tree in trees:
        if children := tree.live_children(ROOT):
            yield sum(tree.nodes[child].visit_count > 0 for child in children) / len(children)


def score_bound(run: FinishedRun, options: argparse.Namespace) -> str:
    """The function from the head's number to the score, in training and inference."""
    settings = run.settings(f"{run.here}/system")
    search = build(SearchConfig, settings["search"])
    problems = run.held_out(options.searched)
    rows: list[list[str]] = []
    first: ByProblem = {}
    first_right: ByProblem = {}
    for bound in (ScoreBound.TANH, ScoreBound.NONE):
        arm = Arm()
        right: ByProblem = defaultdict(list)
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                config = dataclasses.replace(run.ppm, score_bound=bound)
                learned = trained_and_tested(
                    run, options.pairs, seed, run.pairs, config, Path(folder), learn_from=run.learned_from
                )
                arm.add(learned)
                scorer = partial(PPMScorer, folder, max_length=config.max_length)
                trees = searched(
                    run, problems, f"{run.here}/policy", search, settings, seed, open_value=scorer
                )
            evaluation = Evaluation(by_problem(graded(trees, problems, settings)), seed=seed)
            for problem in problems:
                right[problem.id].append(evaluation.outcome(problem.id, Method.BEST, 1))
        first, first_right = first or arm.by_problem, first_right or right
        system = spread([*map(statistics.mean, zip(*right.values(), strict=True))])
        rows.append([
            str(bound), *arm.columns(), difference(first, arm.by_problem), system, difference(first_right, right),
        ])  # fmt: skip
    header = ["`score_bound`", *Arm.header, "difference", f"MCTS, {len(problems)} problems", "difference"]
    return markdown(f"`score_bound`: PPM of round {run.round_index}, pairs in the right order", header, rows)


def pair_filters(run: FinishedRun, options: argparse.Namespace) -> str:
    """Which pairs of steps are learned from, by Q margin and edit distance."""
    arms = [*((margin, DISTANCES[0]) for margin in MARGINS), *((MARGINS[0], one) for one in DISTANCES[1:])]
    table = ArmTable()
    for margin, distance in arms:
        pairs = dataclasses.replace(run.pairs, min_q_margin=margin, min_edit_distance=distance)
        table.add([f"{margin:g}", str(distance)], tested(run, options, pairs, run.learned_from))
    return table.markdown(
        f"Pair filters: PPM of round {run.round_index}", ["`min_q_margin`", "`min_edit_distance`"]
    )


def earlier_pairs(run: FinishedRun, options: argparse.Namespace) -> str:
    """Whether the pairs of earlier rounds, of weaker models, are learned from too."""
    table = ArmTable()
    for first in dict.fromkeys((run.round_index, 1)):
        rounds = range(first, run.round_index + 1)
        table.add([", ".join(map(str, rounds))], tested(run, options, run.pairs, rounds))
    return table.markdown(f"`earlier_pairs`: PPM of round {run.round_index}", ["pairs of rounds"])


def tested(
    run: FinishedRun, options: argparse.Namespace, pairs: PairConfig, learn_from: Sequence[int]
) -> Arm:
    """One arm, over the seeds."""
    arm = Arm()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            arm.add(
                trained_and_tested(
                    run, options.pairs, seed, pairs, run.ppm, Path(folder), learn_from=learn_from
                )
            )
    return arm


def searched(
    run: FinishedRun,
    problems: Sequence[Problem],
    policy: str,
    search: SearchConfig,
    settings: Mapping[str, Any],
    seed: int,
    *,
    open_value: OpenValue | None = None,
) -> list[Tree]:
    """One tree per problem; without the reference answers where a value model guides."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder)
        faults = asyncio.run(
            search_into_store(
                problems, model=run.folder / policy, store=store, round_index=run.round_index, label="", search=search,
                sandbox=build(SandboxConfig, settings["sandbox"]), grading=build(GraderConfig, settings["grading"]),
                engine=EngineConfig(), prompt_format=settings["prompt_format"], seed=derive(seed, "decisions"),
                open_value=open_value, reference=open_value is None, console=Console(quiet=True),
            )
        )  # fmt: skip
        refuse_faults(faults)
        return sorted(store.trees(), key=lambda tree: tree.problem_id)


def graded(trees: Sequence[Tree], problems: Sequence[Problem], settings: Mapping[str, Any]) -> list[Attempt]:
    """The answers of these trees, with their classes and whether they are right."""
    levels = {problem.id: problem.level for problem in problems}

    async def all_graded() -> list[Attempt]:
        async with Grader(build(GraderConfig, settings["grading"])) as grader:
            attempts = [one for tree in trees for one in attempts_of(tree, levels[tree.problem_id])]
            return await grade(attempts, problems, grader)

    return asyncio.run(all_graded())


EXPERIMENTS: Mapping[str, Callable[[FinishedRun, argparse.Namespace], str]] = {
    "unvisited_score": unvisited_score,
    "score_bound": score_bound,
    "pair_filters": pair_filters,
    "earlier_pairs": earlier_pairs,
}

if __name__ == "__main__":
    main()
