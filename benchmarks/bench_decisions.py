"""The experiments behind decisions on which the sources are silent or disagree (docs/method.md), on a finished run.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_decisions [EXPERIMENT ...] [--run runs/embedded] [--seeds 0 1] [--round 2]
                                                           [--problems 60] [--pairs 1200] [--searched 20]

`unvisited_score`: infinity against 0. Policy r1 searches the first `--problems` held-out problems of each level,
terminal-guided, with the search settings of round 1.
`score_bound`: tanh against none. The preference model of `--round` is trained again with each, and each guides policy
and search settings of that round's evaluation on the first `--searched` held-out problems of each level, 1 tree each.
`pair_filters`: the preference model of `--round` is trained again on pairs kept by other thresholds.

Trainings use the round's trees of problems drawn until they have `--pairs` pairs before any filter, a quarter of the
problems held out to test on: each arm of a seed learns from and is tested on the same problems. What is tested is one fixed
set for all arms, all pairs of the held-out problems before any filter, because that is what a search meets: siblings as
they come, not only such as lie far apart. So pairs of equal Q-values (order by chance) are among them, and shares say how
arms compare; the columns of close pairs are those that a strict filter would have left out. `--round` is 2 (1 where there
is no other): the first whose model guides a search.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.__main__ import NOTHING_TO_MEASURE
from benchmarks.tables import interval, markdown, spread
from policy.attempts import Attempt, attempts_of, by_problem, grade
from policy.evaluate import Evaluation
from policy.selection import Method
from policy.statistics import ALL_LEVELS, paired_difference
from ppm.config import PairConfig, PPMConfig, ScoreBound
from ppm.edit_distance import differ_by
from ppm.evaluate import score_groups
from ppm.groups import PairGroup, PairKind, PreferencePair
from ppm.model import load
from ppm.pairs import pair_set
from ppm.scorer import PPMScorer
from ppm.train import train
from rounds.artifact import STORE, read_manifest
from rounds.evaluation import LEVELS
from rounds.machine import describe_machine
from rounds.pools import EVALUATION
from rounds.searching import refuse_faults
from rstar.backends.loading import read_tokenizer
from rstar.campaign import search_into_store
from rstar.config import Guidance, SearchConfig, build
from rstar.engines import EngineConfig
from rstar.grading import Grader, GraderConfig
from rstar.problems import Problem, read_problems
from rstar.prompts import FORMATS
from rstar.sandbox import SandboxConfig
from rstar.seeds import derive
from rstar.store import Store
from rstar.tree import ROOT, Tree

HELD_OUT_SHARE = 0.25
MARGINS = (0.5, 0.0, 0.25, 1.0)
DISTANCES = (1, 0, 5, 20)
"""The first of each are what the other is combined with."""
CLOSE_MARGIN, CLOSE_DISTANCE = 0.5, 20
ByProblem = dict[str, list[float]]
"""Outcomes in [0, 1] by problem."""


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run, and which of its rounds has its preference model trained again."""

    folder: Path
    round_index: int

    def settings(self, stage: str) -> dict[str, Any]:
        manifest = read_manifest(self.folder / stage)
        assert manifest is not None, f"{self.folder / stage} is complete"
        return manifest.settings

    @property
    def here(self) -> str:
        return f"round{self.round_index}"

    def held_out(self, per_level: int) -> list[Problem]:
        """The first so many held-out problems of each level."""
        by_level: dict[str, list[Problem]] = defaultdict(list)
        for problem in read_problems(self.folder / "problems" / EVALUATION).problems:
            by_level[problem.level].append(problem)
        return [problem for level in by_level.values() for problem in level[:per_level]]


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
    pairs = build(PairConfig, run.settings(f"{run.here}/pairs")["pairs"])
    rows: list[list[str]] = []
    first: ByProblem = {}
    first_right: ByProblem = {}
    for bound in (ScoreBound.TANH, ScoreBound.NONE):
        tested = Tested()
        right: ByProblem = defaultdict(list)
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                config = dataclasses.replace(ppm_config(run), score_bound=bound)
                tested.add(trained_and_tested(run, options.pairs, seed, pairs, config, Path(folder)))
                scorer = PPMScorer(folder, max_length=config.max_length)
                trees = searched(run, problems, f"{run.here}/policy", search, settings, seed, value=scorer)
            evaluation = Evaluation(by_problem(graded(trees, problems, settings)), seed=seed)
            for problem in problems:
                right[problem.id].append(evaluation.outcome(problem.id, Method.BEST, 1))
        first, first_right = first or tested.by_problem, first_right or right
        system = spread([*map(statistics.mean, zip(*right.values(), strict=True))])
        rows.append([
            str(bound), *tested.columns(), difference(first, tested.by_problem), system, difference(first_right, right),
        ])  # fmt: skip
    header = ["`score_bound`", *Tested.header, "difference", f"MCTS, {len(problems)} problems", "difference"]
    return markdown(f"`score_bound`: PPM of round {run.round_index}, pairs in the right order", header, rows)


def pair_filters(run: FinishedRun, options: argparse.Namespace) -> str:
    """Which pairs of steps are learned from, by Q margin and edit distance."""
    recipe = build(PairConfig, run.settings(f"{run.here}/pairs")["pairs"])
    arms = dict.fromkeys([*((margin, DISTANCES[0]) for margin in MARGINS), *((MARGINS[0], d) for d in DISTANCES)])  # fmt: skip
    rows: list[list[str]] = []
    first: ByProblem = {}
    for margin, distance in arms:
        pairs = dataclasses.replace(recipe, min_q_margin=margin, min_edit_distance=distance)
        tested = Tested()
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                tested.add(trained_and_tested(run, options.pairs, seed, pairs, ppm_config(run), Path(folder)))
        first = first or tested.by_problem
        rows.append([f"{margin:g}", str(distance), *tested.columns(), difference(first, tested.by_problem)])
    header = ["`min_q_margin`", "`min_edit_distance`", *Tested.header, "difference"]
    return markdown(f"Pair filters: PPM of round {run.round_index}, pairs in the right order", header, rows)


@dataclass(frozen=True)
class Outcome:
    """Of one training: how many pairs it learned from, and what became of each pair that was tested."""

    num_pairs: int
    tested: list[tuple[PreferencePair, float]]
    """1 in the right order, 0 in the wrong one, 0.5 for equal scores."""


class Tested:
    """Outcomes of the trainings of one arm, over seeds."""

    kinds: Mapping[str, Callable[[PreferencePair], bool]] = {
        "all": lambda pair: True,
        "steps": lambda pair: pair.kind is PairKind.STEP,
        f"steps, margin < {CLOSE_MARGIN}": lambda pair: (
            pair.kind is PairKind.STEP and pair.q_margin < CLOSE_MARGIN
        ),
        f"steps, distance < {CLOSE_DISTANCE}": lambda pair: (
            pair.kind is PairKind.STEP and not differ_by(pair.chosen.text, pair.rejected.text, CLOSE_DISTANCE)
        ),
        "trajectories": lambda pair: pair.kind is PairKind.FINAL,
    }
    header = ("pairs trained on", *kinds)

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.by_problem: ByProblem = {}

    def add(self, outcome: Outcome) -> None:
        points: ByProblem = defaultdict(list)
        for pair, point in outcome.tested:
            points[f"{len(self.outcomes)}/{pair.problem_id}"].append(point)
        self.by_problem |= {problem_id: [statistics.mean(of)] for problem_id, of in points.items()}
        self.outcomes.append(outcome)

    def columns(self) -> list[str]:
        """Mean number of pairs, and for each kind the share in the right order with the number tested."""
        columns = [f"{statistics.mean(outcome.num_pairs for outcome in self.outcomes):,.0f}"]
        for belongs in self.kinds.values():
            of_kind = [[point for pair, point in one.tested if belongs(pair)] for one in self.outcomes]
            shares = spread([statistics.mean(points) for points in of_kind if points])
            columns.append(f"{shares}, n = {sum(map(len, of_kind)):,}")
        return columns


def trained_and_tested(
    run: FinishedRun, num_pairs: int, seed: int, pairs: PairConfig, config: PPMConfig, out: Path
) -> Outcome:
    """A preference model trained, into `out`, on the pairs that `pairs` keeps, and tested on those of held-out problems
    that no filter left out."""
    searched_with = run.settings(f"{run.here}/search")
    policy = run.folder / run.here / "policy"
    draw = partial(
        pair_set,
        format=FORMATS[searched_with["prompt_format"]],
        encode=partial(read_tokenizer(policy).encode, add_special_tokens=False),
        max_output_chars=searched_with["search"]["max_output_chars"],
    )
    trees = list(Store(run.folder / run.here / "search" / STORE).trees(run.round_index))
    unfiltered = draw(trees, config=dataclasses.replace(pairs, min_q_margin=0.0, min_edit_distance=0)).groups
    to_learn, to_test = problems_with(unfiltered, num_pairs, seed)
    groups = draw([tree for tree in trees if tree.problem_id in to_learn], config=pairs).groups
    result = train(groups, base=policy, out=out, config=config, seed=seed)
    test = [group for group in unfiltered if group.problem_id in to_test]
    scores = score_groups(load(out), test, sharing=config.sharing, max_length=config.max_length)
    tested = []
    for group, (chosen, rejected) in zip(test, scores, strict=True):
        for (at, other), pair in zip(group.pairs, group.preference_pairs(), strict=True):
            point = (chosen[at] > rejected[other]) + 0.5 * (chosen[at] == rejected[other])
            tested.append((pair, point))
    return Outcome(result.num_pairs, tested)


def problems_with(groups: Sequence[PairGroup], num_pairs: int, seed: int) -> tuple[set[str], set[str]]:
    """Problems in an order of `seed` until they have `num_pairs` pairs: those to learn from, and those to test on."""
    sizes: dict[str, int] = defaultdict(int)
    for group in groups:
        sizes[group.problem_id] += group.size
    drawn: list[str] = []
    for problem_id in sorted(sizes, key=lambda one: derive(seed, "decisions", one)):
        if sum(sizes[one] for one in drawn) >= num_pairs:
            break
        drawn.append(problem_id)
    num_held_out = math.ceil(HELD_OUT_SHARE * len(drawn))
    return set(drawn[num_held_out:]), set(drawn[:num_held_out])


def ppm_config(run: FinishedRun) -> PPMConfig:
    return build(PPMConfig, run.settings(f"{run.here}/ppm")["ppm"])


def searched(
    run: FinishedRun,
    problems: Sequence[Problem],
    policy: str,
    search: SearchConfig,
    settings: Mapping[str, Any],
    seed: int,
    *,
    value: PPMScorer | None = None,
) -> list[Tree]:
    """One tree per problem; without the reference answers where a value model guides."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder)
        faults = asyncio.run(
            search_into_store(
                problems, model=run.folder / policy, store=store, round_index=run.round_index, label="", search=search,
                sandbox=build(SandboxConfig, settings["sandbox"]), grading=build(GraderConfig, settings["grading"]),
                engine=EngineConfig(), prompt_format=settings["prompt_format"], seed=derive(seed, "decisions"),
                value=value, reference=value is None, console=Console(quiet=True),
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


def difference(first: ByProblem, second: ByProblem) -> str:
    """Mean outcome of `second` minus that of `first` in points, with its interval; a dash for the same."""
    if first is second:
        return "–"
    means = [[statistics.mean(of[problem_id]) for problem_id in first] for of in (first, second)]
    found = paired_difference(*means, seed=0)
    return f"{100 * found.difference:+.1f} ({interval(found.interval.low, found.interval.high)})"


EXPERIMENTS: Mapping[str, Callable[[FinishedRun, argparse.Namespace], str]] = {
    "unvisited_score": unvisited_score,
    "score_bound": score_bound,
    "pair_filters": pair_filters,
}

if __name__ == "__main__":
    main()
