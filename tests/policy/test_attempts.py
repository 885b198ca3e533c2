"""Attempts on disk and in groups."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from policy.attempts import (
    Attempt,
    attempts_of,
    by_problem,
    grade,
    read_attempts,
    rescored,
    write_attempts,
)
from rstar.errors import StoreError
from rstar.grading import Grader
from rstar.problems import Problem
from rstar.tree import Tree
from tests.policy import attempts as some
from tests.policy.attempts import Answer, attempts_at
from tests.policy.forest import add_solution, tree_of


@given(trees=some.trees())
def test_attempts_come_back_as_they_were_written(
    trees: list[list[Answer]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("attempts") / "attempts.jsonl"
    lines = [*attempts_at(trees), *attempts_at([[("½\n", None)], []], problem_id="ä", level="")]
    write_attempts(path, lines)
    assert read_attempts(path) == lines
    assert list(path.parent.iterdir()) == [path]


@given(trees=some.trees())
def test_every_tree_is_there_whatever_the_order_of_the_lines(trees: list[list[Answer]]) -> None:
    lines = attempts_at(trees)
    (expected,) = by_problem(lines)
    assert [tree.tree_index for tree in expected.trees] == list(range(len(trees)))
    assert [[a.answer for a in tree.answers] for tree in expected.trees] == [[a[0] for a in tree] for tree in trees]  # fmt: skip
    assert [tree.tokens for tree in expected.trees] == [10 * (i + 1) for i in range(len(trees))]
    random.Random(0).shuffle(lines)
    assert by_problem(lines) == [expected]


def test_problems_are_told_apart_and_keep_their_levels() -> None:
    lines = attempts_at([[("R", 1.0)]], problem_id="b", level="hard") + attempts_at([[]], problem_id="a")
    assert [(p.problem_id, p.level, len(p.trees)) for p in by_problem(lines)] == [
        ("b", "hard", 1),
        ("a", "easy", 1),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "many"}, r"attempts.jsonl:2: tokens: input should be a valid integer"),
        ({"verified": 7}, r"attempts.jsonl:2: verified: input should be a valid boolean"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"problem_id": "p", "level": "easy", "tree_index": 0, "tokens": 5}
    path = tmp_path / "attempts.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(StoreError, match=message):
        read_attempts(path)


def test_what_is_no_file_of_attempts_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    with pytest.raises(StoreError, match=r"attempts.jsonl: cannot be read: .*No such file"):
        read_attempts(path)
    path.write_text('{"problem_id": "p"')
    with pytest.raises(StoreError, match=r"attempts.jsonl:1: invalid JSON"):
        read_attempts(path)
    path.write_text('{"problem_id": "p"}')
    with pytest.raises(StoreError, match=r"attempts.jsonl:1: level: field required"):
        read_attempts(path)
    assert Attempt(problem_id="p", level="", tree_index=0, tokens=1).verified is False


def solved_tree(tree_index: int, answers: list[str], *, problem_id: str = "p") -> Tree:
    """A tree with these answers, each from a program of its own, not judged."""
    tree = tree_of(problem_id, tree_index)
    tree.num_tokens = 100 + tree_index
    for at, answer in enumerate(answers):
        *_, node_id = add_solution(tree, [f"x = {at}\nprint(x)"], answer, verified=None, multiplicity=at + 1, q=0.5)  # fmt: skip
        tree.nodes[node_id].initial_value = at / 10
    return tree


def test_a_trees_attempts_are_its_answers_with_what_the_search_knew_of_them() -> None:
    first, second = attempts_of(solved_tree(3, ["7", "8"]), "easy")
    assert (first.problem_id, first.level, first.tree_index, first.tokens) == ("p", "easy", 3, 103)
    assert [
        (one.node_id, one.answer, one.multiplicity, one.score, one.mean_q) for one in (first, second)
    ] == [
        (2, "7", 1, 0.0, 0.5),
        (4, "8", 2, 0.1, 0.5),
    ]
    (nothing,) = attempts_of(solved_tree(0, []), "easy")
    assert nothing == Attempt(problem_id="p", level="easy", tree_index=0, tokens=100)


def test_grading_numbers_equal_answers_of_a_problem_over_its_trees_and_compares_with_its_reference() -> None:
    trees = [
        solved_tree(1, ["1/2", "3"]),
        solved_tree(0, ["4", "0.5"]),
        solved_tree(2, []),
        solved_tree(0, ["3"], problem_id="other"),
    ]
    problems = [
        Problem(id="other", question="?", answer="3"),
        Problem(id="p", question="?", answer=r"\frac{1}{2}"),
    ]

    async def graded() -> list[Attempt]:
        async with Grader() as grader:
            return await grade([one for tree in trees for one in attempts_of(tree, "easy")], problems, grader)

    found = [
        (one.problem_id, one.tree_index, one.answer, one.answer_class, one.verified)
        for one in asyncio.run(graded())
    ]
    assert found == [
        ("other", 0, "3", 0, True),
        ("p", 0, "4", 0, False),
        ("p", 0, "0.5", 1, True),
        ("p", 1, "1/2", 1, True),
        ("p", 1, "3", 2, False),
        ("p", 2, None, None, False),
    ]


def test_other_scores_replace_those_of_the_search_and_nothing_else() -> None:
    attempts = [one for answers in (["7", "8"], []) for one in attempts_of(solved_tree(0, answers), "easy")]
    found = rescored(attempts, {("p", 0): {2: -0.5, 4: 0.25}})
    assert [one.score for one in found] == [-0.5, 0.25, None]
    assert [replace(one, score=None) for one in found] == [replace(one, score=None) for one in attempts]
