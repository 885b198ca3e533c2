"""Attempts on disk and in groups."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from policy.attempts import Attempt, by_problem, read_attempts, write_attempts
from rstar.errors import StoreError
from tests.policy import attempts as some
from tests.policy.attempts import Answer, attempts_at


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
