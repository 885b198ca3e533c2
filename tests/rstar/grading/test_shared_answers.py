"""Check the checker: every reference answer of the shared data equals itself; 800 labelled pairs."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from rstar.grading import Grader, VerdictReason, normalise, symbolic
from rstar.grading.compare import _prose
from rstar.grading.constants import evaluate
from rstar.grading.structure import Answer, Collection, Equation, Group, Leaf, Matrix, Union, parse
from rstar.problems import read_problems
from tests.rstar.grading.cases import DATA, FOLDER

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder beside the tree")

FILES = [
    f"{name}_test.json"
    for name in ["GSM8K", "aime2024", "amc23", "collegemath", "gaokao2023en", "math500", "olympiadbench"]
]
UNEQUAL = {"gaokao2023en_test-167", "gaokao2023en_test-192"}
"""The only reference answers that do not equal themselves: they are empty."""


def test_every_reference_answer_equals_itself_but_two_empty_ones(grader: Grader) -> None:
    unequal = set()
    reasons: Counter[VerdictReason] = Counter()
    for name in [*FILES, "math_cot_100.jsonl"]:
        for problem in read_problems(DATA / name).problems:
            verdict = grader.grade_sync(f" {problem.answer} ", problem.answer)
            reasons[verdict.reason] += 1
            if not verdict.equal:
                unequal.add(problem.id)
    assert unequal == UNEQUAL
    assert reasons == {VerdictReason.IDENTICAL: 5865, VerdictReason.UNPARSABLE: 2}


def leaves(answer: Answer) -> list[str]:
    match answer:
        case Leaf(text):
            return [text]
        case Group(items=items) | Collection(items=items) | Union(items=items):
            return [leaf for item in items for leaf in leaves(item)]
        case Matrix(rows=rows):
            return [leaf for row in rows for cell in row for leaf in leaves(cell)]
        case Equation(value=value):
            return leaves(value)
    return []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_reference_answer_is_read_to_its_leaves_but_for_a_counted_list() -> None:
    """Beyond equal texts: each part of each answer is a number, a constant, prose, or an expression that computer
    algebra reads. The exceptions equal their own text alone; they are listed by id."""
    expected = json.loads((FOLDER / "unreadable_references.json").read_text())
    unreadable = set()
    for name in FILES:
        for problem in read_problems(DATA / name).problems:
            for leaf in leaves(parse(normalise(problem.answer))):
                if evaluate(leaf) is None and not _prose(leaf):
                    try:
                        symbolic.read(leaf)
                    except symbolic.UnreadableError:
                        unreadable.add(problem.id)
    assert unreadable == set(expected)
    assert len(expected) == 141


DISAGREEMENTS = [(72, 7, "10000", "10{,}000", False)]
"""(problem, sample, answer, reference, label): the label is wrong, its grader did not know this separator."""


def test_agreement_with_the_800_labels_of_math_cot_is_799(grader: Grader) -> None:
    disagreements = []
    pairs = 0
    for line in (DATA / "math_cot_100.jsonl").read_text().splitlines():
        row = json.loads(line)
        for sample, (answer, label) in enumerate(zip(row["pred"], row["score"], strict=True)):
            pairs += 1
            if grader.grade_sync(answer, row["gt"]).equal != label:
                disagreements.append((row["idx"], sample, answer, row["gt"], label))
    assert pairs == 800
    assert disagreements == DISAGREEMENTS
