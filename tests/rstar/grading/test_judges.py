"""The judges of the search: one verifies, the other cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect

import pytest

from rstar.grading import Grader, NoReferenceJudge, ReferenceJudge
from rstar.protocols import AnswerJudge, Reward


def judges(grader: Grader) -> list[AnswerJudge]:
    return [ReferenceJudge(grader, "1/2"), NoReferenceJudge(grader)]


def test_a_right_answer_is_worth_1_and_a_wrong_one_minus_1(grader: Grader) -> None:
    judge = ReferenceJudge(grader, "1/2")
    assert asyncio.run(judge.judge("0.5")) == Reward(value=1.0, verified=True, detail="numeric")
    assert asyncio.run(judge.judge("50")) == Reward(value=-1.0, verified=False, detail="different")
    assert asyncio.run(judge.judge("")) == Reward(
        value=-1.0, verified=False, detail="unparsable: the answer is empty"
    )


def test_both_judges_class_answers_alike(grader: Grader) -> None:
    for judge in judges(grader):
        assert asyncio.run(judge.equal(["2", "1/2", "0.5", "2.0"])) == [0, 1, 1, 0]


def test_fault_10_the_judge_of_inference_cannot_hold_a_reference(grader: Grader) -> None:
    judge = NoReferenceJudge(grader)
    assert asyncio.run(judge.judge("0.5")) is None
    assert list(inspect.signature(NoReferenceJudge).parameters) == ["grader"]
    with pytest.raises(AttributeError):
        judge.reference = "1/2"  # type: ignore[attr-defined]
    held = [thing for thing in gc.get_referents(judge) if not isinstance(thing, type)]
    assert held == [grader]
    assert {field.name for field in dataclasses.fields(grader.config)}.isdisjoint({"reference", "answer"})
