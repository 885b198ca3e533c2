"""Every problem is kept or left out for a reason, and the pool that is left keeps what it promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.cli import main
from rounds.preparation.config import PreparationConfig
from rounds.preparation.contamination import EvaluationIndex
from rounds.preparation.prepare import Reason, prepare
from rounds.preparation.samples import Samples, level_by_pass_rate
from rounds.preparation.sources import read_pool
from rounds.preparation.text import normalised
from rstar.config import build
from rstar.errors import ConfigError, ProblemError
from rstar.grading import Grader
from rstar.problems import Problem, read_problems, write_problems
from rstar.store import Store
from tests.rstar.trees import grow

LONG = "How many apples has Ada if she buys twelve bags of seven apples and eats three of them"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as one:
        yield one


def problem(question: str, answer: str = "1", **own: str) -> Problem:
    return Problem(
        **{"id": question[:20] or "-", "question": question, "answer": answer, "source": "s", **own}
    )


def test_each_problem_is_left_out_for_the_first_reason_that_holds(grader: Grader) -> None:
    pool = [
        problem("Kept?", "0.5"),
        problem("kept", r"\frac{1}{2}", id="near"),
        problem("Kept?", "1/2", id="exact"),
        problem("Which?", "1", id="c1"),
        problem("which", "2", id="c2"),
        problem("Which ?", "1", id="c3"),
        problem("No answer", ""),
        problem("evaluated, ISN'T IT"),
        problem(f"{LONG} today?", id="leak"),
    ]
    evaluation = [problem("Evaluated, isn't it?"), problem(LONG)]
    found = prepare(pool, evaluation, PreparationConfig(), grader=grader)
    assert [p.id for p in found.problems] == ["Kept?"]
    assert {drop.problem_id: drop.reason for drop in found.drops} == {
        "near": Reason.NEAR_DUPLICATE, "exact": Reason.DUPLICATE, "No answer": Reason.NO_ANSWER,
        "c1": Reason.CONTRADICTION, "c2": Reason.CONTRADICTION, "c3": Reason.CONTRADICTION,
        "evaluated, ISN'T IT": Reason.EVALUATED, "leak": Reason.CONTAMINATED,
    }  # fmt: skip


def test_a_turn_of_phrase_may_be_let_pass_and_is_listed(grader: Grader) -> None:
    pool = [problem(f"{name}: {LONG}?", id=name) for name in ("one", "two", "three")]
    strict = prepare(pool, [problem(f"zero: {LONG}?")], PreparationConfig(), grader=grader)
    assert not strict.problems
    assert strict.common_grams.most_common(1)[0][1] == 3
    assert (
        len(prepare(pool, [problem(LONG)], PreparationConfig(max_common_ngram=2), grader=grader).problems)
        == 3
    )
    assert not prepare(pool, [problem(LONG)], PreparationConfig(max_common_ngram=3), grader=grader).problems


words = st.sampled_from(["two", "apples", "and", "3", "pears", "+", "-"])
questions = st.lists(words, min_size=1, max_size=6).map(" ".join)
pools = st.lists(st.tuples(questions, st.sampled_from(["", "1", "2"])), max_size=12)


@given(pools, st.lists(questions, max_size=3))
def test_nothing_is_lost_and_what_is_kept_is_clean(pool: list[tuple[str, str]], held_out: list[str]) -> None:
    config = PreparationConfig(ngram=3)
    problems = [problem(question, answer, id=f"p{i % 4}") for i, (question, answer) in enumerate(pool)]
    evaluation = [problem(question) for question in held_out]
    with Grader() as grader:  # starts no process for numbers
        found = prepare(problems, evaluation, config, grader=grader)
        again = prepare(found.problems, evaluation, config, grader=grader)
    assert len(found.problems) + len(found.drops) == len(problems)
    assert len({p.id for p in found.problems}) == len(found.problems)
    texts = [normalised(p.question) for p in found.problems]
    assert len(set(texts)) == len(texts)
    index = EvaluationIndex([(p.id, p.question) for p in evaluation], ngram=3)
    for kept in found.problems:
        assert kept.answer
        assert index.equal(normalised(kept.question)) is None
        assert not index.shared(kept.question)
    assert again.problems == found.problems, "a prepared pool is prepared"


def test_levels_come_from_sources_and_from_pass_rates(grader: Grader) -> None:
    pool = [
        problem(f"q{i}", source="gsm" if i else "own", level="olympiad" if i == 0 else "") for i in range(4)
    ]
    samples = {"q2": Samples(["1", "2"], 1), "q3": Samples(["2", "2"], 0)}
    config = PreparationConfig(levels={"gsm": "easy"}, pass_rates={"easy": 0.9, "medium": 0.3})
    found = prepare(pool, [], config, grader=grader, samples=samples)
    assert [p.level for p in found.problems] == ["olympiad", "easy", "medium", "easy"]


@pytest.mark.parametrize(
    ("rate", "level"), [(1.0, "easy"), (0.8, "easy"), (0.79, "medium"), (0.0, "hard"), (0.1, "hard")]
)
def test_a_pass_rate_has_the_level_of_the_highest_bound_that_it_reaches(rate: float, level: str) -> None:
    assert level_by_pass_rate(rate, {"medium": 0.2, "easy": 0.8, "hard": 0.0}) == level
    assert level_by_pass_rate(rate, {"never": 1.1 - 0.1 * (rate == 1.0)}) == (
        "never" if rate == 1.0 else None
    )


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["1", "1.0", "2", "1", "3"], ""),
        (["1", "1", "2", "3"], "at most 2 of 4 sampled answers agree"),
        (["2", "2", "2", "1"], "3 of 4 sampled answers say '2'"),
        (["1", "1", "1", "2", "2", "2"], ""),
        (None, "no answer was sampled"),
    ],
)
def test_a_synthetic_problem_needs_answers_that_agree_with_its_own(
    grader: Grader, answers: list[str] | None, why: str
) -> None:
    samples = {} if answers is None else {"q": Samples(answers)}
    config = PreparationConfig(synthetic_sources=("gpt",))
    found = prepare([problem("q", source="gpt"), problem("r")], [], config, grader=grader, samples=samples)
    assert [drop.detail for drop in found.drops] == ([why] if why else [])
    assert found.problems[-1].id == "r", "problems of other sources need no samples"


def test_problems_that_are_solved_too_often_may_be_left_out(grader: Grader) -> None:
    samples = {"a": Samples(["1"] * 10, 10), "b": Samples(["1"] * 10, 9)}
    found = prepare(
        [problem("a"), problem("b")], [], PreparationConfig(max_pass_rate=0.9), grader=grader, samples=samples
    )
    assert [(d.problem_id, d.reason, d.detail) for d in found.drops] == [
        ("a", Reason.MASTERED, "10 of 10 sampled answers are right")
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"ngram": 0}, "ngram is 0; it must be at least 1"),
        ({"min_agreeing": 0}, "min_agreeing is 0"),
        ({"max_common_ngram": 0}, "max_common_ngram is 0"),
        ({"pass_rates": {"easy": 80}}, r"pass_rates.easy is 80.0; it must be in \[0, 1\]"),
        ({"max_pass_rate": 2}, "max_pass_rate is 2"),
        ({"ngrams": 13}, "unknown key ngrams; did you mean ngram"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        build(PreparationConfig, settings)


def test_a_data_set_of_the_hub_is_read_like_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "numina"
    folder.mkdir()
    rows = [
        {"problem": "2+2?", "solution": r"It is \boxed{4}.", "source": "amc"},
        {"problem": "", "solution": ""},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_pool(f"hub:{folder}:train")
    assert found.problems == (Problem(id="numina-0", question="2+2?", answer="4", source="amc"),)
    assert [(fault.line, fault.field) for fault in found.faults] == [(2, "question")]
    with pytest.raises(ProblemError, match=r'^hub:.*numina: Unknown split "test"'):
        read_pool(f"hub:{folder}:test")
    with pytest.raises(ProblemError, match=r"^hub:nobody/nothing: "):
        read_pool("hub:nobody/nothing")


def rstar(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rstar", "problems", "prepare", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_writes_the_pool_a_report_and_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, held_out, out = (tmp_path / name for name in ("pool.jsonl", "held_out.jsonl", "ready.parquet"))
    write_problems(pool, [problem("a"), problem("b"), problem("A?", id="again")])
    with pool.open("a") as file:
        file.write("{}\n")
    write_problems(held_out, [problem("B")])
    arguments = [str(pool), "--out", str(out), "--against", str(held_out), "--set", "levels.s=easy"]
    assert rstar(monkeypatch, *arguments) == 0
    assert [(p.id, p.level) for p in read_problems(out).problems] == [("a", "easy")]
    report = json.loads((tmp_path / "ready.report.json").read_text())
    assert (report["problems_in"], report["problems_kept"]) == (4, 1)
    assert report["dropped"] == {"malformed": 1, "near-duplicate": 1, "evaluated": 1}
    drops = [json.loads(line) for line in (tmp_path / "ready.dropped.jsonl").read_text().splitlines()]
    assert {drop["problem_id"] for drop in drops} == {"", "again", "b"}
    assert "near-duplicate" in capsys.readouterr().out
    assert rstar(monkeypatch, *arguments, "--set", "max_pass_rate=0.5") == 2
    assert "name a store of them with --samples" in capsys.readouterr().err


def test_where_no_problem_is_left_no_pool_is_written_and_the_reasons_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, out = tmp_path / "pool.jsonl", tmp_path / "ready.jsonl"
    write_problems(pool, [problem("a question", id="a")])
    assert rstar(monkeypatch, str(pool), "--out", str(out), "--against", str(pool)) == 2
    assert "no problem is left" in capsys.readouterr().err
    assert not out.exists()
    drops = (tmp_path / "ready.dropped.jsonl").read_text().splitlines()
    assert [json.loads(drop)["reason"] for drop in drops] == ["evaluated"]


def test_samples_are_the_answers_of_a_stores_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = grow(seed=3)
    store = Store.create(tmp_path / "store")
    with store.writer(round=1) as writer:
        writer.append(tree)
    answered = list(store.trajectories())
    right = sum(bool(one.verified) for one in answered)
    assert 0 < right < len(answered), "the tree has answers of both kinds"
    write_problems(tmp_path / "pool.jsonl", [problem(tree.question, id=tree.problem_id)])
    out = tmp_path / "out.jsonl"
    arguments = [str(tmp_path / "pool.jsonl"), "--out", str(out), "--samples", str(tmp_path / "store")]
    share = right / len(answered)
    assert (
        rstar(
            monkeypatch,
            *arguments,
            "--set",
            f"pass_rates.hard={share}",
            "--set",
            f"pass_rates.easy={share + 0.01}",
        )
        == 0
    )
    assert [p.level for p in read_problems(out).problems] == ["hard"]
