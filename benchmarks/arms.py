"""Preference models trained again with one thing changed, and tested on the same held-out pairs.

What is tested is all pairs of the held-out problems in the trees of the run's round, before any filter, because that is
what a search meets: siblings as they come, not only such as lie far apart. So pairs of equal Q-values (order by chance)
are among them, and shares say how arms compare.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.finished import FinishedRun
from benchmarks.tables import interval, markdown, spread
from policy.statistics import paired_difference
from ppm.config import PairConfig, PPMConfig
from ppm.edit_distance import differ_by
from ppm.evaluate import score_groups
from ppm.groups import PairGroup, PairKind, PreferencePair
from ppm.model import load
from ppm.pairs import pair_set
from ppm.train import train
from rstar.backends.loading import read_tokenizer
from rstar.prompts import FORMATS
from rstar.seeds import derive

HELD_OUT_SHARE = 0.25
"""Of the drawn problems."""
CLOSE_MARGIN, CLOSE_DISTANCE = 0.5, 20
"""Pairs below are counted apart: what the released code's filters leave out."""
ByProblem = dict[str, list[float]]
"""Outcomes in [0, 1] by problem."""


@dataclass(frozen=True)
class Outcome:
    """Of one training: how many pairs it learned from, and what became of each pair that was tested."""

    num_pairs: int
    tested: list[tuple[PreferencePair, float]]
    """1 in the right order, 0 in the wrong one, 0.5 for equal scores."""


class Arm:
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


class ArmTable:
    """Rows of arms that are trained and tested, each with its difference from the first."""

    def __init__(self) -> None:
        self._rows: list[list[str]] = []
        self._first: ByProblem = {}

    def add(self, name: list[str], arm: Arm) -> None:
        self._first = self._first or arm.by_problem
        self._rows.append([*name, *arm.columns(), difference(self._first, arm.by_problem)])

    def markdown(self, title: str, names: list[str]) -> str:
        return markdown(f"{title}, pairs in the right order", [*names, *Arm.header, "difference"], self._rows)


def trained_and_tested(
    run: FinishedRun,
    num_pairs: int,
    seed: int,
    pairs: PairConfig,
    config: PPMConfig,
    out: Path,
    *,
    learn_from: Sequence[int],
) -> Outcome:
    """A preference model trained, into `out`, on the pairs that `pairs` keeps in the trees of the rounds `learn_from`, and
    tested on all those of held-out problems."""
    searched_with = run.settings(f"{run.here}/search")
    policy = run.folder / run.here / "policy"
    draw = partial(
        pair_set,
        format=FORMATS[searched_with["prompt_format"]],
        encode=partial(read_tokenizer(policy).encode, add_special_tokens=False),
        max_output_chars=searched_with["search"]["max_output_chars"],
    )
    unfiltered = draw(
        run.trees(run.round_index), config=dataclasses.replace(pairs, min_q_margin=0.0, min_edit_distance=0)
    ).groups
    to_learn, to_test = problems_with(unfiltered, num_pairs, seed)
    trees = [tree for index in learn_from for tree in run.trees(index) if tree.problem_id in to_learn]
    groups = draw(trees, config=pairs).groups
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


def difference(first: ByProblem, second: ByProblem) -> str:
    """Mean outcome of `second` minus that of `first` in points, with its interval; a dash for the same."""
    if first is second:
        return "–"
    means = [[statistics.mean(of[problem_id]) for problem_id in first] for of in (first, second)]
    found = paired_difference(*means, seed=0)
    return f"{100 * found.difference:+.1f} ({interval(found.interval.low, found.interval.high)})"
