"""From graded attempts to numbers: accuracy with k trees, curves over tokens, and every way to answer at one token budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from policy.evaluate import Evaluation, Point
from policy.statistics import PairedDifference, paired_difference
from rounds.evals.arms import ArmName, Row
from rstar.selection import Method

NUM_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """A row of the comparison at equal tokens: as many trees as the budget pays for, and by how much that is above the first row."""

    label: str
    arm: str
    method: str
    point: Point
    exhausted: bool
    """The budget would pay for more trees than there are: it spends less than the others."""
    over_first: PairedDifference | None
    """The first row minus this one, on the same problems; None for the first row."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetResults:
    """All tables of one problem set."""

    name: str
    title: str
    origin: str
    levels: Mapping[str, int]
    """Number of problems; `all` last."""
    budget: float
    """Tokens per problem of the comparison."""
    compared: Mapping[str, tuple[Budgeted, ...]]
    """Level to its rows."""
    curves: Mapping[str, Mapping[str, tuple[Point, ...]]]
    """Level to the curve of each row, by label; `pass@k` of the samples too."""
    cost: Mapping[str, Mapping[str, float]]
    """Arm to trees, tokens per problem and tokens per tree."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What an evaluation found, with all that decides it."""

    settings: Mapping[str, Any]
    sets: tuple[SetResults, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "settings": dict(self.settings),
            "sets": {
                one.name: {
                    "title": one.title,
                    "origin": one.origin,
                    "problems": dict(one.levels),
                    "budget": one.budget,
                    "at_equal_tokens": {
                        level: [_plain_row(row) for row in rows] for level, rows in one.compared.items()
                    },
                    "curves": {
                        level: {label: [plain_point(point) for point in points] for label, points in curves.items()}
                        for level, curves in one.curves.items()
                    },
                    "cost": {arm: dict(cost) for arm, cost in one.cost.items()},
                }
                for one in self.sets
            },
        }  # fmt: skip


def results_of(
    name: str,
    title: str,
    origin: str,
    evaluations: Mapping[ArmName, Evaluation],
    rows: Sequence[Row],
    *,
    seed: int,
) -> SetResults:
    """The tables of one set. The budget is what one tree of the first row's arm costs on the average problem."""
    first = evaluations[rows[0].arm]
    levels = first.levels()
    everything = list(levels.values())[-1]
    budget = first.tokens(everything, 1 if rows[0].arm is not ArmName.SAMPLES else first.num_trees)
    compared, curves = {}, {}
    for level, ids in levels.items():
        compared[level] = _compared(evaluations, rows, ids, budget, seed=seed)
        curves[level] = {row.label: tuple(evaluations[row.arm].curve(ids, row.method)) for row in rows}
        if ArmName.SAMPLES in evaluations:
            curves[level]["pass@k"] = tuple(evaluations[ArmName.SAMPLES].curve(ids, Method.PASS))
    return SetResults(
        name=name,
        title=title,
        origin=origin,
        levels={level: len(ids) for level, ids in levels.items()},
        budget=budget,
        compared=compared,
        curves=curves,
        cost={
            str(arm): {
                "trees": float(found.num_trees),
                "tokens_per_tree": found.tokens(everything, 1),
                "tokens_per_problem": found.tokens(everything, found.num_trees),
            }
            for arm, found in evaluations.items()
        },
    )


def _compared(
    evaluations: Mapping[ArmName, Evaluation],
    rows: Sequence[Row],
    ids: Sequence[str],
    budget: float,
    *,
    seed: int,
) -> tuple[Budgeted, ...]:
    made: list[Budgeted] = []
    first_outcomes: list[float] = []
    for row in rows:
        evaluation = evaluations[row.arm]
        num_trees = evaluation.num_fitting(ids, budget)
        outcomes = [evaluation.outcome(problem_id, row.method, num_trees) for problem_id in ids]
        if not made:
            first_outcomes = outcomes
        made.append(
            Budgeted(
                label=row.label,
                arm=str(row.arm),
                method=str(row.method),
                point=evaluation.point(ids, row.method, num_trees),
                exhausted=budget >= evaluation.tokens(ids, evaluation.num_trees + 1),
                over_first=paired_difference(outcomes, first_outcomes, seed=seed, num_resamples=NUM_RESAMPLES)
                if made
                else None,
            )
        )
    return tuple(made)


def _plain_row(row: Budgeted) -> dict[str, Any]:
    difference = row.over_first
    return {
        "label": row.label, "arm": row.arm, "method": row.method, **plain_point(row.point), "exhausted": row.exhausted,
        "first_minus_this": None if difference is None else {
            "difference": difference.difference, "low": difference.interval.low, "high": difference.interval.high,
        },
    }  # fmt: skip


def plain_point(point: Point) -> dict[str, float]:
    """A point as JSON."""
    return {
        "num_trees": point.num_trees, "tokens": point.tokens, "accuracy": point.accuracy,
        "low": point.interval.low, "high": point.interval.high,
    }  # fmt: skip
