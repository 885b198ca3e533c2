"""What has changed between two rounds, of one store or of two: problems solved and lost, coverage, cost, endings, values.

A problem is solved if a tree of it is. Coverage is compared over the problems that both sides have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rstar.errors import StoreError
from rstar.store.catalog import TreeRecord
from rstar.store.rows import Outcome
from rstar.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two rounds."""

    store: str
    round: int
    num_problems: int
    num_solved: int
    num_trees: int
    num_nodes: int
    num_rollouts: int
    num_tokens: int
    num_executions: int
    seconds: float
    endings: dict[str, int]
    """Nodes by terminal reason."""
    num_right: int
    """Trajectories with a verified answer."""
    num_answers: int
    mean_q_right: float | None
    """Mean over these trajectories of their mean Q-value, in [-1, 1]; None without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    """Coverage of one level, over the problems that both sides have. `level` is that of the second."""

    level: str
    num_problems: int
    num_solved_a: int
    num_solved_b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two rounds side by side. Problem ids are sorted."""

    a: Side
    b: Side
    levels: tuple[LevelChange, ...]
    newly_solved: tuple[str, ...]
    """Of the problems that both have: solved in b only."""
    lost: tuple[str, ...]
    """Of the problems that both have: solved in a only."""
    only_a: tuple[str, ...]
    """Problems that b does not have."""
    only_b: tuple[str, ...]


def parse_side(text: str) -> tuple[Store, int]:
    """`STORE` or `STORE:ROUND`. Raises StoreError if there is no such store or round, or several rounds and none is named."""
    folder, colon, number = text.rpartition(":")
    if Path(text).exists() or not (colon and number.isdecimal()):
        folder, number = text, ""
    store = Store(folder)
    rounds = sorted({record.round for record in store.records()})
    if number and int(number) not in rounds:
        raise StoreError(f"{folder} has no trees of round {number}; it has rounds {_listed(rounds)}")
    if not number and len(rounds) != 1:
        raise StoreError(
            f"{folder} has trees of {len(rounds)} rounds ({_listed(rounds)}); say which: {folder}:ROUND"
        )
    return store, int(number) if number else rounds[0]


def _listed(rounds: Sequence[int]) -> str:
    return ", ".join(map(str, rounds)) or "none"


def compare(a: tuple[Store, int], b: tuple[Store, int]) -> Difference:
    """The difference of two rounds."""
    records_a, records_b = (store.records(round) for store, round in (a, b))
    solved_a, solved_b = _solved(records_a), _solved(records_b)
    common = sorted(solved_a.keys() & solved_b.keys())
    level_of = {record.problem_id: record.level for record in records_b}
    levels = []
    for level in sorted({level_of[problem] for problem in common}):
        of_level = [problem for problem in common if level_of[problem] == level]
        levels.append(LevelChange(
            level=level, num_problems=len(of_level), num_solved_a=sum(solved_a[p] for p in of_level),
            num_solved_b=sum(solved_b[p] for p in of_level),
        ))  # fmt: skip
    return Difference(
        a=_side(*a, records_a), b=_side(*b, records_b), levels=tuple(levels),
        newly_solved=tuple(p for p in common if solved_b[p] and not solved_a[p]),
        lost=tuple(p for p in common if solved_a[p] and not solved_b[p]),
        only_a=tuple(sorted(solved_a.keys() - solved_b.keys())),
        only_b=tuple(sorted(solved_b.keys() - solved_a.keys())),
    )  # fmt: skip


def _solved(records: Sequence[TreeRecord]) -> dict[str, bool]:
    solved: dict[str, bool] = {}
    for record in records:
        solved[record.problem_id] = solved.get(record.problem_id, False) or record.outcome is Outcome.SOLVED
    return solved


def _side(store: Store, round: int, records: Sequence[TreeRecord]) -> Side:
    endings: Counter[str] = Counter()
    for tree in store.trees(round):
        endings.update(str(node.terminal) for node in tree.nodes if node.terminal is not None)
    found = list(store.trajectories(round))
    right = [trajectory.mean_q for trajectory in found if trajectory.verified]
    return Side(
        store=str(store.folder), round=round,
        num_problems=len({r.problem_id for r in records}), num_solved=sum(_solved(records).values()),
        num_trees=len(records), num_nodes=sum(r.num_nodes for r in records),
        num_rollouts=sum(r.num_rollouts for r in records), num_tokens=sum(r.num_tokens for r in records),
        num_executions=sum(r.num_executions for r in records), seconds=sum(r.seconds for r in records),
        endings=dict(sorted(endings.items())), num_right=len(right), num_answers=len(found),
        mean_q_right=sum(right) / len(right) if right else None,
    )  # fmt: skip
