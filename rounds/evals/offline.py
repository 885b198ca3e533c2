"""Samples that somebody has drawn, graded and scored already, aggregated anew: majority, best-of-N, weighted vote.

A row holds one problem with lists of the same length: `pred` (answers), `pred_score` (a value model's scores) and `score`
(whether each is right), as Qwen2.5-Math's evaluation writes them. Without `score` the answers are graded here.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policy.attempts import Attempt, ProblemAttempts, by_problem
from policy.evaluate import Evaluation, Point
from rstar.errors import ProblemError
from rstar.grading import Grader
from rstar.selection import Method

METHODS = (Method.PASS, Method.MAJORITY, Method.BEST, Method.WEIGHTED_VOTE, Method.TOP_VOTE)


def read_samples(path: Path) -> list[ProblemAttempts]:
    """The samples of a JSONL file, equal answers of a problem in one class. A score is taken as the logit of being right, so
    that its vote, (1 + tanh(score / 2)) / 2, is that probability; its order is kept.

    Raises ProblemError, naming line and field, for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read: {error}") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise ProblemError(f"{path}: holds no samples")
    lengths = {len(row["pred"]) for row in rows}
    if len(lengths) != 1:
        raise ProblemError(
            f"{path}: pred: {sorted(lengths)} answers per problem; there must be equally many of each"
        )
    return by_problem(asyncio.run(_attempts(rows)))


def aggregate(problems: Sequence[ProblemAttempts], *, seed: int = 0) -> dict[Method, list[Point]]:
    """The curve of each selection over 1, 2, 4, … samples."""
    evaluation = Evaluation(problems, seed=seed)
    ids = list(evaluation.problems)
    return {method: evaluation.curve(ids, method) for method in METHODS}


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise ProblemError(f"{path}:{number}: not JSON") from None
    if not isinstance(row, dict):
        raise ProblemError(f"{path}:{number}: expected an object with pred and pred_score")
    answers = row.get("pred")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
        raise ProblemError(f"{path}:{number}: pred: must be a list of answers as text")
    if isinstance(scores := row.get("pred_score"), list):  # Qwen's has each in a list of its own
        row["pred_score"] = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in scores]
    for field, kinds in (("pred_score", (int, float)), ("score", (bool, int))):
        values = row.get(field)
        if values is None and field == "score":
            continue
        if (
            not isinstance(values, list)
            or len(values) != len(answers)
            or not all(isinstance(one, kinds) for one in values)
        ):
            raise ProblemError(
                f"{path}:{number}: {field}: must be a list of {len(answers)} numbers, one per answer"
            )
    if row.get("score") is None and not isinstance(row.get("gt", row.get("answer")), str):
        raise ProblemError(f"{path}:{number}: score: is missing, and so is the right answer (gt or answer)")
    return {**row, "id": str(row.get("idx", row.get("id", number)))}


async def _attempts(rows: Sequence[dict[str, Any]]) -> list[Attempt]:
    found = []
    async with Grader() as grader:
        for row in rows:
            answers = row["pred"]
            classes = await grader.classes(answers)
            rights: list[bool]
            if row.get("score") is not None:
                rights = row["score"]
            else:
                reference: str = row["gt"] if "gt" in row else row["answer"]
                rights = [(await grader.grade(answer, reference)).equal for answer in answers]
            for index, (answer, answer_class) in enumerate(zip(answers, classes, strict=True)):
                found.append(
                    Attempt(
                        problem_id=row["id"], level=str(row.get("level", "")), tree_index=index, tokens=0, node_id=1,
                        answer=answer, answer_class=answer_class, multiplicity=1,
                        score=math.tanh(row["pred_score"][index] / 2), verified=bool(rights[index]),
                    )
                )  # fmt: skip
    return found
