"""Samples of others aggregated anew, against a naive count; files that hold none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rounds.evals.offline import aggregate, read_samples
from rstar.errors import ProblemError
from rstar.selection import Method


def rows_file(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_published_samples_give_the_naive_best_of_n_and_pass_rates(data_dir: Path) -> None:
    file = data_dir / "math_cot_100.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = aggregate(read_samples(file))

    def best(row: dict[str, list[list[float]]]) -> float:
        scores = [one[0] for one in row["pred_score"]]
        right = [bool(s) for s, score in zip(row["score"], scores, strict=True) if score == max(scores)]
        return sum(right) / len(right)

    assert found[Method.BEST][-1].accuracy == pytest.approx(sum(map(best, rows)) / len(rows))
    assert found[Method.PASS][0].accuracy == pytest.approx(sum(sum(r["score"]) / 8 for r in rows) / len(rows))
    assert found[Method.PASS][-1].accuracy == sum(any(r["score"]) for r in rows) / len(rows)
    assert found[Method.MAJORITY][-1].accuracy > found[Method.MAJORITY][0].accuracy
    assert [point.num_trees for point in found[Method.MAJORITY]] == [1, 2, 4, 8]


def test_votes_by_hand(tmp_path: Path) -> None:
    """Two right answers (as 1/2 and 0.5) with low scores against one wrong one with a high score."""
    file = rows_file(
        tmp_path / "samples.jsonl",
        {"idx": 0, "pred": ["1/2", "0.5", "3"], "pred_score": [-1.0, -1.0, 0.5], "answer": "\\frac{1}{2}"},
    )
    found = {method: points[-1].accuracy for method, points in aggregate(read_samples(file)).items()}
    assert found[Method.MAJORITY] == 1
    assert found[Method.BEST] == 0
    assert found[Method.WEIGHTED_VOTE] == 0  # 2 sigmoid(-1) = 0.54 < sigmoid(0.5) = 0.62
    assert found[Method.PASS] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no object", "samples.jsonl:1: expected an object with pred and pred_score"),
        ({"pred": []}, "samples.jsonl:1: pred: must be a list of answers as text"),
        (
            {"pred": ["1", "2"], "pred_score": [1.0]},
            "samples.jsonl:1: pred_score: must be a list of 2 numbers",
        ),
        (
            {"pred": ["1"], "pred_score": [1.0]},
            "samples.jsonl:1: score: is missing, and so is the right answer",
        ),
    ],
)
def test_a_malformed_row_is_named_with_its_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(message)):
        read_samples(rows_file(tmp_path / "samples.jsonl", row))


def test_every_problem_needs_equally_many_samples(tmp_path: Path) -> None:
    file = rows_file(
        tmp_path / "samples.jsonl",
        {"idx": 0, "pred": ["1"], "pred_score": [1.0], "score": [True]},
        {"idx": 1, "pred": ["1", "2"], "pred_score": [1.0, 0.0], "score": [True, False]},
    )
    with pytest.raises(ProblemError, match=r"pred: \[1, 2\] answers per problem"):
        read_samples(file)
