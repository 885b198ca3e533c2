"""ProcessBench: definitions by hand, thresholds against a sweep, the real file with a scripted model of known F1, and
mistakes in a file named by row and field."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppm.config import ScoreBound
from ppm.model import start_from
from ppm.processbench import (
    NO_ERROR,
    SEPARATOR,
    Row,
    best_threshold,
    evaluate,
    evaluate_model,
    first_wrong,
    read_processbench,
    score_steps,
)
from rstar.backends.loading import read_tokenizer
from rstar.backends.scripted import ScriptedValue
from rstar.errors import BackendError, ConfigError, ProblemError
from rstar.prompts import BARE, render_prompt
from rstar.protocols import ScoreRequest
from tests.policy.forest import save_tiny_base

GOOD: dict[str, Any] = {
    "id": "r1", "problem": "1 + 1?", "steps": ["One.", "Three."], "final_answer_correct": False, "label": 1
}  # fmt: skip


def row(label: int, num_steps: int, id: str = "r") -> Row:
    steps = tuple(f"{id} step {index}" for index in range(num_steps))
    return Row(id=id, problem="?", steps=steps, final_answer_correct=label == NO_ERROR, label=label)


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def test_the_figures_by_hand() -> None:
    rows = [row(1, 3), row(0, 2), row(2, 3), row(NO_ERROR, 2), row(NO_ERROR, 1)]
    scores = [[0.5, -0.1, 0.9], [0.2, -0.4], [-0.3, 0.2, -0.4], [0.0, 0.7], [-0.2]]
    result = evaluate(rows, scores, threshold=0.0)
    assert (result.num_erroneous, result.num_correct) == (3, 2)
    assert result.accuracy_erroneous == pytest.approx(
        1 / 3
    )  # the first alone: the second too late, the third too early
    assert result.accuracy_correct == 0.5  # a score at the threshold is not below it
    assert result.f1 == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert (result.threshold, result.num_calibration) == (0.0, 0)


def test_a_model_that_finds_nothing_right_has_f1_0() -> None:
    assert evaluate([row(0, 1), row(NO_ERROR, 1)], [[1.0], [-1.0]], threshold=0.0).f1 == 0


labelled_rows = st.lists(
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=4).flatmap(
        lambda scores: st.tuples(st.integers(NO_ERROR, len(scores) - 1), st.just(scores))
    ),
    min_size=2, max_size=12,
).filter(lambda rows: 0 < sum(label == NO_ERROR for label, _ in rows) < len(rows))  # fmt: skip


@given(labelled=labelled_rows)
def test_no_threshold_is_better_than_the_best(labelled: list[tuple[int, list[float]]]) -> None:
    def f1(threshold: float) -> float:
        right = [label for label, scores in labelled if first_wrong(scores, threshold) == label]
        correct = [label for label, _ in labelled if label == NO_ERROR]
        found = right.count(NO_ERROR) / len(correct)
        wrong = (len(right) - right.count(NO_ERROR)) / (len(labelled) - len(correct))
        return 2 * found * wrong / (found + wrong) if found + wrong else 0

    sweep = [f1(step / 8) for step in range(-10, 11)]
    assert f1(best_threshold(labelled)) == pytest.approx(max(sweep))


def test_a_chosen_threshold_is_evaluated_on_other_rows_and_depends_on_the_seed_alone() -> None:
    chance = random.Random(0)
    rows = [row(chance.choice([NO_ERROR, NO_ERROR, 0, 1, 2]), 3, str(index)) for index in range(200)]
    scores = [[chance.gauss(-0.4 if index == row.label else 0.4, 0.3) for index in range(3)] for row in rows]
    result = evaluate(rows, scores, calibration_share=0.25, seed=1)
    assert result.num_calibration == 50
    assert result.num_erroneous + result.num_correct == 150
    assert -0.5 < result.threshold < 0.5
    assert result == evaluate(rows, scores, calibration_share=0.25, seed=1)
    assert result != evaluate(rows, scores, calibration_share=0.25, seed=2)
    given_threshold = evaluate(rows, scores, threshold=result.threshold)
    assert abs(given_threshold.f1 - result.f1) < 0.1


@pytest.mark.parametrize("label", [0, NO_ERROR])
def test_one_kind_of_solution_alone_gives_no_figure(label: int) -> None:
    with pytest.raises(ProblemError, match=r"of 2 solutions . have a wrong step; .* needs both kinds"):
        evaluate([row(label, 1), row(label, 1)], [[0.0], [0.0]], threshold=0.0)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"calibration_share is 1.5; it must be between 0 and 1"):
        evaluate([row(0, 1)], [[0.0]], calibration_share=1.5)


def test_each_step_is_scored_after_the_problem_and_the_steps_before_it() -> None:
    asked: list[ScoreRequest] = []

    class Recording(ScriptedValue):
        async def score(self, request: ScoreRequest) -> list[float]:
            asked.append(request)
            return await super().score(request)

    one = row(NO_ERROR, 3)
    value = Recording(lambda text: len(text) / 1000)
    scores = asyncio.run(score_steps([one], value, format=BARE, encode=bytes_of))
    prompt = render_prompt(BARE, "?")
    texts = [prompt + SEPARATOR.join(one.steps[:n]) for n in (1, 2, 3)]
    assert scores == [[len(text) / 1000 for text in texts]]
    assert [r.prefix_text + r.step_texts[0] for r in asked] == texts
    assert [bytes(r.prefix_ids + r.step_ids[0]).decode() for r in asked] == texts


def test_a_model_that_cannot_answer_is_named_with_row_and_step() -> None:
    def fail(text: str) -> float:
        if "step 1" in text:
            raise BackendError("too long")
        return 0.0

    with pytest.raises(BackendError, match=r"^gsm-7, step 1: too long$"):
        asyncio.run(score_steps([row(0, 2, "gsm-7")], ScriptedValue(fail), format=BARE, encode=bytes_of))


def test_the_real_file_with_a_model_that_knows_every_third_error(data_dir: Path) -> None:
    """The model finds the wrong step of every third erroneous solution, and doubts the last step of every fourth correct
    one; so both accuracies are known."""
    rows = read_processbench(data_dir / "processbench_gsm8k.json")
    erroneous = [row for row in rows if row.label != NO_ERROR]
    correct = [row for row in rows if row.label == NO_ERROR]
    assert (len(erroneous), len(correct)) == (207, 193)
    doubted = {(row.problem, row.steps[: row.label + 1]) for row in erroneous[::3]}
    doubted |= {(row.problem, row.steps) for row in correct[::4]}
    texts = {render_prompt(BARE, problem) + SEPARATOR.join(steps) for problem, steps in doubted}
    assert len(texts) == 69 + 49

    value = ScriptedValue(lambda text: -0.5 if text in texts else 0.5)
    scores = asyncio.run(score_steps(rows, value, format=BARE, encode=bytes_of))
    result = evaluate(rows, scores, threshold=0.0)
    assert result.accuracy_erroneous == 69 / 207
    assert result.accuracy_correct == 144 / 193
    assert result.f1 == pytest.approx(2 * (69 / 207) * (144 / 193) / (69 / 207 + 144 / 193))
    chosen = evaluate(rows, scores, seed=0)
    assert (chosen.threshold, chosen.num_calibration) == (0.0, 200)


def test_a_folder_with_a_preference_model_is_evaluated(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base", ["One plus one is two.\n\nThe answer is 2."] * 3)
    model = start_from(base, ScoreBound.TANH)
    torch.nn.init.normal_(model.classifier.score.weight, generator=torch.Generator().manual_seed(0))
    model.classifier.save_pretrained(tmp_path / "ppm")
    read_tokenizer(base).save_pretrained(tmp_path / "ppm")
    data = tmp_path / "rows.jsonl"
    values = [{**GOOD, "label": label, "id": str(index)} for index, label in enumerate([0, 1, -1, -1])]
    data.write_text("".join(json.dumps(value) + "\n" for value in values))
    result = asyncio.run(evaluate_model(data, tmp_path / "ppm", format=BARE, threshold=-2.0))
    assert (result.num_erroneous, result.accuracy_erroneous, result.accuracy_correct) == (2, 0, 1)
    command = [sys.executable, "-m", "rounds.cli", "processbench", str(data), "--threshold=-2", "--model"]
    ran = subprocess.run([*command, str(tmp_path / "ppm")], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "F1 0.0%, threshold -2 (given)",
        "first wrong step found: 0.0% of 2",
        "right solutions left alone: 100.0% of 2",
    ]
    wrong = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, f"error: model folder {tmp_path / 'no'} does not exist\n")
    with pytest.raises(ConfigError, match=r"does not exist"):
        asyncio.run(evaluate_model(data, tmp_path / "ppm" / "none", format=BARE))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_both_layouts_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    values = [GOOD, {**GOOD, "id": "r2", "label": -1, "final_answer_correct": True}]
    lines = "\n\n".join(json.dumps(value) for value in values)
    path.write_text(lines if suffix == ".jsonl" else json.dumps(values))
    found = read_processbench(path)
    assert [(r.id, r.label, r.final_answer_correct, r.steps) for r in found] == [
        ("r1", 1, False, ("One.", "Three.")),
        ("r2", -1, True, ("One.", "Three.")),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "row 2: label: is 2; it must be -1 or the index of one of the 2 steps"),
        ({"label": -2}, "row 2: label: is -2; it must be -1 or"),
        ({"label": True}, "row 2: label: is true; it must be a whole number"),
        ({"label": None}, "row 2: label: is null; it must be a whole number"),
        ({"steps": []}, "row 2: steps: is empty"),
        ({"steps": "One."}, 'row 2: steps: is "One."; it must be a list of texts'),
        ({"steps": ["One.", 3]}, "row 2: steps: step 1 is 3; it must be text"),
        ({"steps": ["One.", " "]}, 'row 2: steps: step 1 is " "; it must be text'),
        ({"problem": 5}, "row 2: problem: is 5; it must be text"),
        ({"final_answer_correct": "no"}, 'row 2: final_answer_correct: is "no"; it must be true or false'),
    ],
)
def test_a_wrong_field_is_named_with_its_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, {**GOOD, **change}]))
    with pytest.raises(ProblemError) as caught:
        read_processbench(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("field", ["problem", "steps", "final_answer_correct", "label"])
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, field: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps({k: v for k, v in GOOD.items() if k != field})}\n")
    with pytest.raises(ProblemError, match=rf"rows.jsonl:3: {field}: is missing; it must be "):
        read_processbench(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b"[1]", "row 1: is 1; it must be an object"),
        ("rows.json", b"{}", "must hold one JSON array"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.json", b"[", "is not JSON: "),
        ("rows.jsonl", b"{}\n{", "rows.jsonl:1: problem: is missing"),
        ("rows.json", b"\xff\xfe", "is not UTF-8 text"),
        ("none.json", None, "No such file"),
    ],
)
def test_what_is_no_such_file_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError) as caught:
        read_processbench(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
