"""Problems: readers for the field's layouts, faults with file, line and field, lossless round trips."""

from __future__ import annotations

import json
import string
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.errors import ProblemError
from rstar.problems import (
    Fault,
    OnError,
    Problem,
    normalised_question,
    read_problems,
    read_rows,
    write_problems,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the shared data folder ({DATA.name}) beside the tree"
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Layouts


@needs_data
@pytest.mark.parametrize(
    ("name", "num_problems", "num_repeated", "num_unanswered"),
    [
        ("GSM8K_test.json", 1319, 0, 0),
        ("math500_test.json", 500, 0, 0),
        ("aime2024_test.json", 30, 0, 0),
        ("amc23_test.json", 40, 0, 0),
        ("collegemath_test.json", 2818, 37, 0),
        ("olympiadbench_test.json", 675, 0, 0),
        ("gaokao2023en_test.json", 385, 0, 2),
        ("math_cot_100.jsonl", 100, 0, 0),
        ("processbench_gsm8k.json", 400, 25, 400),
    ],
)
def test_every_shared_problem_file_is_read_as_it_is(
    name: str, num_problems: int, num_repeated: int, num_unanswered: int
) -> None:
    problems = read_problems(DATA / name)
    noticed = [notice.field for notice in problems.notices]
    assert len(problems.problems) == num_problems
    assert noticed.count("question") == num_repeated
    assert noticed.count("answer") == num_unanswered
    assert len({problem.id for problem in problems.problems}) == num_problems


@needs_data
def test_fields_of_math_cot_arrive_unchanged() -> None:
    path = DATA / "math_cot_100.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, problem in zip(rows, read_problems(path).problems, strict=True):
        assert (problem.question, problem.answer, problem.level) == (
            row["question"],
            row["answer"],
            row["level"],
        )
        assert problem.id == f"math_cot_100-{row['idx']}"


@needs_data
def test_a_file_that_holds_no_questions_names_the_field_that_is_missing() -> None:
    with pytest.raises(
        ProblemError, match=r"rstar_ppm_pair_examples\.json:2: question: is missing; it may be called"
    ):
        read_problems(DATA / "rstar_ppm_pair_examples.json")


def test_id_rules_text_kept_number_prefixed_none_counted(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a/1"},
        {"index": 7},
        {"idx": 8},
        {"id": 9},
        {},
        {"id": None, "index": 3},
        {"id": "9"},
    ]
    path = write(
        tmp_path,
        "set.jsonl",
        "\n".join(json.dumps({"question": str(i), **row}) for i, row in enumerate(rows)),
    )
    ids = [problem.id for problem in read_problems(path).problems]
    assert ids == ["a/1", "set-7", "set-8", "set-9", "set-4", "set-3", "9"]


def test_level_may_be_a_number_or_text_and_source_defaults_to_the_stem(tmp_path: Path) -> None:
    lines = ['{"question": "a", "level": 5}', '{"problem": "b", "level": "Level 5", "source": "x"}']
    first, second = read_problems(write(tmp_path, "s.jsonl", "\n".join(lines))).problems
    assert (first.level, first.source, second.level, second.source) == ("5", "s", "Level 5", "x")


@pytest.mark.parametrize("literal", ["37.50", "1e400", "0.1000000000000000055", "-0.0", "9" * 5000])
def test_numeric_answers_keep_their_digits(tmp_path: Path, literal: str) -> None:
    path = write(tmp_path, "s.json", f'[{{"question": "q", "answer": {literal}}}]')
    assert read_problems(path).problems[0].answer == literal


def test_numeric_answers_of_parquet_become_text_without_loss(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for name, value in {"int": 2**62 + 1, "float": 0.1, "decimal": Decimal("37.50")}.items():
        table = pyarrow.table({"problem": ["q"], "answer": [value], "other": [[1]]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        assert read_problems(tmp_path / f"{name}.parquet").problems[0].answer == str(value)


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    text = '\ufeff{"question": "a", "answer": "1"}\r\n\r\n{"question": "b", "answer": "2"}\r\n'
    assert [p.answer for p in read_problems(write(tmp_path, "s.jsonl", text)).problems] == ["1", "2"]
    text = '\ufeff[{"question": "a", "answer": "1"}]\r\n'
    assert [p.answer for p in read_problems(write(tmp_path, "s.json", text)).problems] == ["1"]


# Faults


GOOD = '{"question": "q", "answer": "1"}'
BAD_LINES = {
    '{"question": "a", "answer": ': ("", "is not JSON"),
    '{"answer": "1"}': ("question", "is missing"),
    '{"question": null, "answer": "1"}': ("question", "is missing"),
    '{"question": " ", "answer": "1"}': ("question", "is empty"),
    '{"question": 5, "answer": "1"}': ("question", "must be text, not a number"),
    '{"question": "a", "answer": ["1"]}': ("answer", "must be text or a number, not an array"),
    '{"question": "a", "gt": true}': ("gt", "must be text or a number, not a truth value"),
    '{"question": "a", "answer": NaN}': ("", "NaN is not JSON"),
    '{"question": "a", "answer": "\\ud800"}': ("answer", "a lone surrogate at character 1"),
    '{"question": "a", "id": 1.5}': ("id", "must be text or a whole number, not 1.5"),
    '["a"]': ("", "expected an object with a question, not an array"),
    "[" * 100_000: ("", "nested too deeply"),
}


@pytest.mark.parametrize(("bad", "expected"), BAD_LINES.items(), ids=[m for _, m in BAD_LINES.values()])
def test_a_malformed_line_is_named_by_file_line_and_field(
    tmp_path: Path, bad: str, expected: tuple[str, str]
) -> None:
    field, message = expected
    path = write(tmp_path, "set.jsonl", f"{GOOD}\n\n{bad}\n{GOOD}\n")
    kept = read_problems(path, on_error=OnError.KEEP)
    assert [problem.id for problem in kept.problems] == ["set-0", "set-2"]
    [fault] = kept.faults
    assert (fault.file, fault.line, fault.field) == (str(path), 3, field)
    assert message in fault.message
    with pytest.raises(ProblemError) as caught:
        read_problems(path)
    assert str(caught.value) == str(fault)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_not_utf8_is_one_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "set.jsonl", GOOD.encode() + b'\n{"question": "\xff"}\n' + GOOD.encode())
    kept = read_problems(path, on_error=OnError.KEEP)
    assert (len(kept.problems), [str(fault) for fault in kept.faults]) == (
        2,
        [f"{path}:2: is not UTF-8 (byte 15 of the line)"],
    )


def test_a_faulty_array_element_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "set.json", f'[\n{GOOD},\n\n  {{"answer":\n "1"}},\n{GOOD}\n]')
    kept = read_problems(path, on_error=OnError.KEEP)
    assert [(fault.line, fault.field) for fault in kept.faults] == [(4, "question")]
    assert [problem.id for problem in kept.problems] == ["set-0", "set-2"]


def test_a_broken_array_keeps_what_came_before(tmp_path: Path) -> None:
    for text, line in {
        f"[\n{GOOD},\n{{]": 3,
        f"[\n{GOOD}\n{GOOD}]": 3,
        f"[\n{GOOD},\n": 3,
        f"[\n{GOOD}\n] x": 3,
        f"[{GOOD},]": 1,
    }.items():
        kept = read_problems(write(tmp_path, "set.json", text), on_error=OnError.KEEP)
        assert (len(kept.problems), [fault.line for fault in kept.faults]) == (1, [line]), text


def test_ids_must_differ_and_equal_questions_are_only_reported(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "question": "What  is 1+1?"}',
        '{"id": "b", "question": "what is 1+1? "}',
        '{"id": "a", "question": "x"}',
    ]
    path = write(tmp_path, "set.jsonl", "\n".join(lines))
    kept = read_problems(path, on_error=OnError.KEEP)
    assert [problem.id for problem in kept.problems] == ["a", "b"]
    assert kept.faults == (Fault(str(path), 3, "id", "'a' came before, in line 1; ids must differ"),)
    assert (
        Fault(str(path), 2, "question", "problem 'b' asks the same as line 1; both are kept") in kept.notices
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.jsonl", "", "holds no problems"),
        ("set.json", " \n", "holds no problems"),
        ("set.json", "[]", "holds no problems"),
        ("set.json", '{"a": []}', "must hold one JSON array; files with one object a line end in .jsonl"),
        ("set.json", GOOD.encode("utf-16"), "is UTF-16; problem files are UTF-8"),
        ("set.parquet", "x", "is not a readable Parquet file"),
        ("set.csv", "a,b", "unknown format '.csv'; problem files end in .jsonl, .ndjson, .json, .parquet"),
    ],
)
def test_an_unreadable_file_is_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    for on_error in OnError:
        with pytest.raises(ProblemError) as caught:
            read_problems(path, on_error=on_error)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no.json", "no.jsonl", "no.parquet"])
def test_a_missing_file_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match=f"{name}: No such file"):
        read_problems(tmp_path / name)


# Writing


texts = st.text(st.characters(codec="utf-8"), max_size=20)
problem_lists = st.lists(
    st.builds(
        Problem,
        id=texts.filter(str.strip),
        question=texts.filter(str.strip),
        answer=texts.map(str.strip),
        level=texts,
        source=texts,
    ),
    min_size=1,
    unique_by=lambda problem: problem.id,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_is_written_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, suffix: str) -> None:
    path = tmp_path_factory.mktemp("written") / f"set{suffix}"

    @given(problem_lists)
    def round_trip(problems: list[Problem]) -> None:
        write_problems(path, problems)
        assert read_problems(path).problems == tuple(problems)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    round_trip()


def test_writing_refuses_what_could_not_be_read_back(tmp_path: Path) -> None:
    good = Problem(id="a", question="q", answer="1")
    for problems, message in [
        ([good, good], "2: id: 'a' came before"),
        ([Problem(id="a", question=" ", answer="1")], "1: question: is empty"),
        ([Problem(id="a", question="\ud800", answer="1")], "1: question: is not Unicode text"),
    ]:
        with pytest.raises(ProblemError, match=message):
            write_problems(tmp_path / "set.jsonl", problems)
    with pytest.raises(ProblemError, match=r"written as \.jsonl or \.parquet, not '\.json'"):
        write_problems(tmp_path / "set.json", [good])
    with pytest.raises(ProblemError, match="No such file"):
        write_problems(tmp_path / "absent" / "set.jsonl", [good])
    assert list(tmp_path.iterdir()) == []


@given(st.text(string.ascii_letters + " \n\t½ﬁ²"))
def test_normalised_question_is_idempotent_and_blind_to_case_and_space(text: str) -> None:
    normal = normalised_question(text)
    assert normalised_question(normal) == normal
    assert normalised_question(f" {text.upper()}\n ") == normalised_question(text.upper())


# Worked solutions


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "q", "answer": "6 * 7 = 42\n#### 42"}, "42"),
        ({"question": "q", "answer": "####"}, "####"),
        ({"problem": "q", "solution": r"So \boxed{42}."}, "42"),
        ({"query": "q", "response": "So 42.\nThe answer is: 42"}, "42"),
        ({"problem": "q", "solution": r"So \boxed{42}.", "answer": "7"}, "7"),
        ({"problem": "q", "solution": "By induction."}, ""),
        ({"problem": "q", "solution": ["several"]}, ""),
    ],
)
def test_without_an_answer_the_final_answer_of_the_solution_counts(
    tmp_path: Path, row: dict[str, object], answer: str
) -> None:
    (one,) = read_problems(write(tmp_path, "a.jsonl", json.dumps(row))).problems
    assert one.answer == answer
    (same,) = read_rows([row], name="a.jsonl").problems
    assert same == one


def test_an_answer_that_is_no_unicode_text_is_a_fault_also_in_a_solution(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"question": "q", "solution": "\\\\boxed{\\ud800}"}')
    with pytest.raises(ProblemError, match="solution: has an answer that is not Unicode text"):
        read_problems(path)


def test_rows_at_hand_that_hold_no_problem_are_an_error() -> None:
    with pytest.raises(ProblemError, match=r"^pool: holds no problems$"):
        read_rows([], name="pool")
