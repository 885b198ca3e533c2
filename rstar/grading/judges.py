"""Judges of final answers, as the search asks for them (`rstar.protocols.AnswerJudge`).

One has a reference answer and verifies; the other has none and cannot: inference holds no truth that it could leak.
"""

from __future__ import annotations

from collections.abc import Sequence

from rstar.grading.grader import Grader
from rstar.protocols import Reward


class ReferenceJudge:
    """Training: +1 for an answer equal to the reference, -1 for any other (rStar-Math, section 3.2)."""

    __slots__ = ("_grader", "_reference")

    def __init__(self, grader: Grader, reference: str) -> None:
        self._grader = grader
        self._reference = reference

    async def equal(self, answers: Sequence[str]) -> list[int]:
        """Class index of each answer, numbered by first appearance."""
        return await self._grader.classes(answers)

    async def judge(self, answer: str) -> Reward | None:
        """The verified reward; `detail` is the verdict's reason. Raises GradingError if the grader fails."""
        verdict = await self._grader.grade(answer, self._reference)
        detail = f"{verdict.reason}: {verdict.detail}" if verdict.detail else str(verdict.reason)
        return Reward(value=1.0 if verdict.equal else -1.0, verified=verdict.equal, detail=detail)


class NoReferenceJudge:
    """Inference: knows which answers are equal, and not which one is right."""

    __slots__ = ("_grader",)

    def __init__(self, grader: Grader) -> None:
        self._grader = grader

    async def equal(self, answers: Sequence[str]) -> list[int]:
        """Class index of each answer, numbered by first appearance."""
        return await self._grader.classes(answers)

    async def judge(self, answer: str) -> Reward | None:
        """None: the value model judges the whole trajectory."""
        return None
