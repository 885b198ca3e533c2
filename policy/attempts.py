"""What an evaluation by search leaves of its trees: their answers, graded after the search, one JSON line each.

An evaluation writes them beside its store; `evaluate` makes numbers of them without asking a model or a grader again.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.errors import StoreError
from rstar.trajectories import trajectories
from rstar.tree import Tree

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from rstar.grading import Grader
    from rstar.problems import Problem

ATTEMPTS = "attempts.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An answered trajectory; or, with no node and no answer, a tree that has none."""

    problem_id: str
    level: str
    tree_index: int
    tokens: int
    """Sampled for the whole tree, whatever became of them."""
    node_id: int | None = None
    answer: str | None = None
    answer_class: int | None = None
    """Equal answers of a problem share it, over all its trees."""
    multiplicity: int = 0
    """How many candidates were this trajectory's answer."""
    score: float | None = None
    """The value model's for the whole trajectory, in [-1, 1]; None where none was asked."""
    mean_q: float | None = None
    verified: bool = False
    """Equal to the reference answer, which the search never saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeAttempts:
    """One tree: what it cost and its answers, in the order in which they were found. A sample is a tree of one path."""

    tree_index: int
    tokens: int
    answers: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemAttempts:
    """All trees of one problem, by their index."""

    problem_id: str
    level: str
    trees: tuple[TreeAttempts, ...]


def by_problem(attempts: Iterable[Attempt]) -> list[ProblemAttempts]:
    """The attempts grouped, problems in the order of their first line; the order of the lines means nothing else."""
    trees: dict[str, dict[int, list[Attempt]]] = {}
    for attempt in attempts:
        trees.setdefault(attempt.problem_id, {}).setdefault(attempt.tree_index, []).append(attempt)
    return [
        ProblemAttempts(
            problem_id=problem_id,
            level=next(iter(by_index.values()))[0].level,
            trees=tuple(
                TreeAttempts(tree_index=index, tokens=by_index[index][0].tokens, answers=_answers(by_index[index]))
                for index in sorted(by_index)
            ),
        )
        for problem_id, by_index in trees.items()
    ]  # fmt: skip


def _answers(attempts: list[Attempt]) -> tuple[Attempt, ...]:
    found = ((attempt.node_id, attempt) for attempt in attempts if attempt.node_id is not None)
    return tuple(attempt for _, attempt in sorted(found, key=lambda pair: pair[0]))


def attempts_of(tree: Tree, level: str) -> list[Attempt]:
    """A tree's answers, not graded yet; `score` is what the value model said of the whole trajectory in the search."""
    nothing = Attempt(
        problem_id=tree.problem_id, level=level, tree_index=tree.tree_index, tokens=tree.num_tokens
    )
    found = []
    for trajectory in trajectories(tree):
        node_id = trajectory.node_ids[-1]
        node = tree.nodes[node_id]
        found.append(
            replace(
                nothing, node_id=node_id, answer=trajectory.answer, multiplicity=node.multiplicity,
                score=node.initial_value, mean_q=trajectory.mean_q,
            )
        )  # fmt: skip
    return found or [nothing]


async def grade(attempts: Iterable[Attempt], problems: Sequence[Problem], grader: Grader) -> list[Attempt]:
    """The attempts with `answer_class` and `verified`, by problem in their order, tree and node.

    Raises GradingError if the grader fails.
    """
    of_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        of_problem[attempt.problem_id].append(attempt)

    async def graded(problem: Problem) -> list[Attempt]:
        ordered = sorted(of_problem[problem.id], key=lambda one: (one.tree_index, one.node_id or 0))
        answers = [one.answer for one in ordered if one.answer is not None]
        classes = iter(await grader.classes(answers))
        verdicts = await asyncio.gather(*(grader.grade(answer, problem.answer) for answer in answers))
        equal = iter([verdict.equal for verdict in verdicts])
        return [
            one if one.answer is None else replace(one, answer_class=next(classes), verified=next(equal))
            for one in ordered
        ]

    return [one for part in await asyncio.gather(*map(graded, problems)) for one in part]


def rescored(
    attempts: Iterable[Attempt], scores: Mapping[tuple[str, int], Mapping[int, float]]
) -> list[Attempt]:
    """The attempts with another value model's scores: of each tree (problem id and index) by the node of the answer."""
    return [
        one if one.node_id is None
        else replace(one, score=scores[one.problem_id, one.tree_index][one.node_id])
        for one in attempts
    ]  # fmt: skip


def write_attempts(path: Path, attempts: Iterable[Attempt]) -> None:
    """One JSON object per line; readers see the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(attempt), ensure_ascii=True) + "\n" for attempt in attempts)
    temporary.replace(path)


def read_attempts(path: Path) -> list[Attempt]:
    """Inverse of `write_attempts`. Raises StoreError, naming file, line and field, for anything else."""
    from pydantic import ValidationError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None
    attempts = []
    for number, line in enumerate(lines, start=1):
        try:
            attempts.append(_adapter().validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            message = first["msg"][0].lower() + first["msg"][1:]
            raise StoreError(f"{path}:{number}: {f'{field}: ' if field else ''}{message}") from None
    return attempts


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Attempt)
