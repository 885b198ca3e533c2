"""What an evaluation by search leaves of its trees: their answers, graded after the search, one JSON line each.

An evaluation writes them beside its store; `evaluate` makes numbers of them, with neither a model nor a grader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.errors import StoreError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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
