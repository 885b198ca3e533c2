"""From strategies to what is run: an arm is a number of trees per problem, which one strategy or several read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from functools import partial

from rounds.evals.config import EvalConfig
from rstar.config import Guidance, SearchConfig, greedy
from rstar.search import Follow, TreeSearch
from rstar.selection import Method
from rstar.strategies import Strategy, configured, follow


class ArmName(StrEnum):
    """Also the name of its folder."""

    MCTS = "mcts"
    BEAM = "beam"
    SAMPLES = "samples"
    GREEDY = "greedy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Trees of one kind: their search, and how many per problem."""

    name: ArmName
    search: SearchConfig
    num_trees: int
    follow: Follow
    scored: bool
    """Its trajectories have scores of the preference model."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a table: an arm read with one way to select the answer."""

    arm: ArmName
    method: Method
    label: str


def arms(strategies: Sequence[Strategy], config: EvalConfig, *, has_ppm: bool) -> list[Arm]:
    """What has to be run, each once. Raises ConfigError for a strategy that needs a preference model, if there is none."""
    search, trees = config.search, config.num_trajectories
    found: dict[ArmName, Arm] = {}
    for strategy in strategies:
        own = configured(strategy, search, has_value=has_ppm)
        match strategy:
            case Strategy.MCTS:
                arm = Arm(
                    name=ArmName.MCTS, search=own, num_trees=trees, follow=TreeSearch.run, scored=has_ppm
                )
            case Strategy.BEAM:
                arm = Arm(
                    name=ArmName.BEAM,
                    search=own,
                    num_trees=trees,
                    follow=partial(follow, strategy),
                    scored=True,
                )
            case Strategy.BEST_OF_N | Strategy.MAJORITY:
                one = dataclasses.replace(greedy(search), sampling=search.sampling)
                arm = Arm(
                    name=ArmName.SAMPLES, search=one, num_trees=config.num_samples, follow=TreeSearch.run,
                    scored=has_ppm,
                )  # fmt: skip
            case Strategy.GREEDY:
                arm = Arm(name=ArmName.GREEDY, search=own, num_trees=1, follow=TreeSearch.run, scored=False)
        found.setdefault(arm.name, arm)
    return list(found.values())


def rows(strategies: Sequence[Strategy], *, has_ppm: bool) -> list[Row]:
    """What the tables compare, in the order of the strategies."""
    searched = [
        (Method.WEIGHTED_VOTE, "vote weighted by score"), (Method.TOP_VOTE, "vote of the 4 best-scored"),
        (Method.BEST, "best-scored"), (Method.MAJORITY, "most frequent"),
    ]  # fmt: skip
    if not has_ppm:
        searched = searched[-1:]
    of_strategy = {
        Strategy.MCTS: [Row(arm=ArmName.MCTS, method=m, label=f"MCTS: {text}") for m, text in searched],
        Strategy.BEAM: [Row(arm=ArmName.BEAM, method=m, label=f"beam: {text}") for m, text in searched],
        Strategy.BEST_OF_N: [
            Row(arm=ArmName.SAMPLES, method=Method.BEST, label="best of N"),
            Row(arm=ArmName.SAMPLES, method=Method.WEIGHTED_VOTE, label="vote of N weighted by score"),
        ],
        Strategy.MAJORITY: [Row(arm=ArmName.SAMPLES, method=Method.MAJORITY, label="majority of N (maj@k)")],
        Strategy.GREEDY: [Row(arm=ArmName.GREEDY, method=Method.PASS, label="greedy")],
    }
    return [row for strategy in strategies for row in of_strategy[strategy]]


def guided(arm: Arm) -> bool:
    """The preference model guides its search."""
    return arm.search.guidance is Guidance.PPM
