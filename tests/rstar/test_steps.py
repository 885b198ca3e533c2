"""The step format: what parses, what is refused and why, and that nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.errors import FormatError
from rstar.steps import (
    END_OF_ANSWER,
    END_OF_CODE,
    END_OF_OUTPUT,
    END_OF_STEP,
    OUTPUT,
    STEP_STOPS,
    TAGS,
    Solution,
    Step,
    StepKind,
    after_step,
    boxed,
    codes,
    parse_solution,
    parse_step,
    render_output,
    render_solution,
)

CLOSING_TAG = {
    StepKind.CODE: END_OF_STEP,
    StepKind.FINAL_CODE: END_OF_CODE,
    StepKind.ANSWER: END_OF_ANSWER,
}

# Free text with what confuses naive parsers: words of the format, pieces of tags, line breaks, braces, other scripts.
PIECES = st.sampled_from(
    [
        "error", "boxed", "answer", "output", "<", ">", "</", "end_of_step", "\n", "\n\n", " ", "x = 1", "# Step 1: ",
        "print(x)", ".\n", "{", "}", "\\", "é", "数", "\r\n", "\t", "```python\n",
    ]
)  # fmt: skip
free_text = (
    st.lists(PIECES, max_size=8).map("".join).filter(lambda text: not any(tag in text for tag in TAGS))
)


@st.composite
def solutions(draw: st.DrawFn) -> Solution:
    """Any solution that the grammar allows, complete or not."""
    steps = [Step(StepKind.CODE, text + END_OF_STEP) for text in draw(st.lists(free_text, max_size=4))]
    output = None
    if draw(st.booleans()):
        steps.append(Step(StepKind.FINAL_CODE, draw(free_text) + END_OF_CODE))
        output = draw(st.none() | free_text.map(lambda text: text.rstrip("\n")))
        if draw(st.booleans()):
            lead = draw(st.sampled_from(["", "\n", " \n"]))
            words, after = draw(free_text), draw(free_text)
            answer = draw(st.sampled_from(["48", r"\frac{1}{2}", r"\{1, 2\}", "x_{1}"]))
            text = f"{lead}<answer>{words} \\boxed{{{answer}}}{after}{END_OF_ANSWER}"
            if boxed(text):
                steps.append(Step(StepKind.ANSWER, text))
    return Solution(tuple(steps), output)


@given(solutions())
def test_parsing_a_rendered_solution_gives_it_back(solution: Solution) -> None:
    assert parse_solution(render_solution(solution)) == solution


@given(solutions())
def test_each_step_of_a_solution_parses_alone_as_the_policy_would_sample_it(solution: Solution) -> None:
    after = None
    for step in solution.steps:
        assert parse_step(step.text, after=after) == step
        after = step.kind


@given(solutions())
def test_a_step_is_its_code_and_a_closing_tag(solution: Solution) -> None:
    for step in solution.steps:
        if step.kind is StepKind.ANSWER:
            assert step.code == ""
        else:
            assert step.code + CLOSING_TAG[step.kind] == step.text
            assert step.answer is None
    assert codes(solution.steps) == tuple(
        step.code for step in solution.steps if step.kind is not StepKind.ANSWER
    )


@given(st.text(alphabet="<>/abcdeforstuwnp_ \n\\{}", max_size=60) | free_text)
def test_any_text_parses_or_is_refused_with_a_reason(text: str) -> None:
    for after in (None, *StepKind):
        step, reason = None, ""
        try:
            step = parse_step(text, after=after)
        except FormatError as error:
            reason = str(error)
        if step is None:
            assert reason
            assert "\n" not in reason
        else:
            assert step.text == text
            assert text.endswith(CLOSING_TAG[step.kind])


@pytest.mark.parametrize(
    ("text", "after", "reason"),
    [
        ("x = 1", None, "no closing tag"),
        ("", None, "no closing tag"),
        (f"x = 1{END_OF_STEP} ", None, "no closing tag"),
        (f"x = 1{END_OF_STEP}y = 2{END_OF_STEP}", None, "stray <end_of_step>"),
        (f"<code>\nx = 1{END_OF_STEP}", None, "stray <code>"),
        (f"x{END_OF_CODE}<answer>\\boxed{{1}}{END_OF_ANSWER}", StepKind.CODE, "answer before <end_of_code>"),
        (f"<answer>\\boxed{{1}}{END_OF_ANSWER}", None, "answer before <end_of_code>"),
        (f"<answer>\\boxed{{1}}{END_OF_ANSWER}", StepKind.CODE, "answer before <end_of_code>"),
        (f"\\boxed{{1}}{END_OF_ANSWER}", StepKind.FINAL_CODE, "begins with <answer>"),
        (f"<answer>1{END_OF_ANSWER}", StepKind.FINAL_CODE, "without"),
        (f"<answer>\\boxed{{}}{END_OF_ANSWER}", StepKind.FINAL_CODE, "without"),
        (f"<answer>\\boxed{{1{END_OF_ANSWER}", StepKind.FINAL_CODE, "without"),
        (f"<answer><answer>\\boxed{{1}}{END_OF_ANSWER}", StepKind.FINAL_CODE, "stray <answer>"),
        (f"x = 1{END_OF_STEP}", StepKind.FINAL_CODE, "code after <end_of_code>"),
        (f"x = 1{END_OF_CODE}", StepKind.FINAL_CODE, "code after <end_of_code>"),
        (f"x = 1{END_OF_STEP}", StepKind.ANSWER, "nothing follows an answer"),
        (f"print(1)\n{OUTPUT}", None, "its own <output> block"),
        (f"print(1)\n{OUTPUT}1{END_OF_OUTPUT}{END_OF_STEP}", None, "its own <output> block"),
        (f"1{END_OF_OUTPUT}", StepKind.FINAL_CODE, "its own <output> block"),
    ],
)
def test_a_text_that_is_no_step_is_refused_with_the_reason(
    text: str, after: StepKind | None, reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_step(text, after=after)


def test_fault_3_words_of_the_format_in_comments_and_strings_mean_nothing() -> None:
    code = f"# an error? the answer is \\boxed{{7}}, see output\nprint('margin of error: 3')\n{END_OF_STEP}"
    step = parse_step(code, after=None)
    assert step.kind is StepKind.CODE
    assert step.answer is None


def test_fault_4_code_on_the_line_of_the_opening_tag_is_kept() -> None:
    solution = parse_solution(f"<code>import math\nx = 1\n{END_OF_STEP}\nprint(x)\n{END_OF_CODE}")
    assert codes(solution.steps) == ("import math\nx = 1\n", "print(x)\n")


def test_fault_4_an_answer_is_not_cut_at_a_full_stop_and_line_break() -> None:
    text = f"<answer>It is 5.\nSo we get.\n\\boxed{{5.\n25}}.\n{END_OF_ANSWER}"
    assert parse_step(text, after=StepKind.FINAL_CODE).answer == "5.\n25"


@pytest.mark.parametrize("stop", STEP_STOPS)
def test_fault_19_sampling_stops_at_closing_tags_and_at_an_output_block_of_the_policys_own(stop: str) -> None:
    assert stop in {END_OF_STEP, END_OF_CODE, END_OF_ANSWER, OUTPUT}


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{48}", "48"),
        (r"\boxed{ 48 }", "48"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{x : x > 0}", r"\{x : x > 0"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{", None),
        (r"boxed{3}", None),
        ("", None),
    ],
)
def test_boxed_is_the_last_balanced_group(text: str, content: str | None) -> None:
    assert boxed(text) == content


@given(st.lists(st.sampled_from([*TAGS, "48", "\n", " ", "<", "<<", "end_of_output>"]), max_size=10))
def test_a_program_cannot_close_the_output_block_or_forge_a_tag(printed: list[str]) -> None:
    block = render_output("".join(printed))
    inside = block.removeprefix(OUTPUT).removesuffix(END_OF_OUTPUT)
    assert not any(tag in inside for tag in TAGS)
    text = f"<code>\nx = 1\n{END_OF_CODE}\n{block}\n<answer>\\boxed{{1}}{END_OF_ANSWER}"
    solution = parse_solution(text)
    assert [step.kind for step in solution.steps] == [StepKind.FINAL_CODE, StepKind.ANSWER]
    assert solution.output == inside
    assert solution.steps[-1].answer == "1"


def test_the_engine_writes_a_line_break_after_code_the_output_after_the_last_code_and_nothing_after_an_answer() -> (
    None
):
    assert after_step(StepKind.CODE) == "\n"
    assert after_step(StepKind.FINAL_CODE, "48\n") == "\n<output>48<end_of_output>\n"
    assert after_step(StepKind.FINAL_CODE, "") == "\n<output><end_of_output>\n"
    assert after_step(StepKind.ANSWER) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"<code>\nx = 1\n{END_OF_STEP}\nprint(x)", r"step 2: no closing tag in 'print\(x\)'"),
        (f"<code>\nx{END_OF_CODE}\n{OUTPUT}1\n", "step 1: <output> without <end_of_output>"),
        (f"<code>\nx{END_OF_CODE}\nx{END_OF_CODE}\n", "step 2: code after <end_of_code>"),
        (f"<code>\nx{END_OF_CODE}\n<answer>\\boxed{{1}}{END_OF_ANSWER}.", "step 3: no closing tag"),
        (
            f"<code>\nx{OUTPUT}1{END_OF_OUTPUT}{END_OF_CODE}",
            "step 1: the policy wrote its own <output> block",
        ),
    ],
)
def test_a_solution_that_does_not_parse_is_refused_with_the_step_and_the_reason(
    text: str, reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_solution(text)


def test_rstar_maths_published_solutions_parse_and_their_canonical_text_parses_to_the_same(
    data_dir: Path,
) -> None:
    rows = json.loads((data_dir / "rstar_sft_examples.json").read_text())
    assert len(rows) == 8
    for row in rows:
        solution = parse_solution(row["response"])
        assert [step.kind for step in solution.steps[-2:]] == [StepKind.FINAL_CODE, StepKind.ANSWER]
        assert solution.steps[-1].answer
        assert solution.output is not None
        assert parse_solution(render_solution(solution)) == solution
        for code in codes(solution.steps):
            assert code in row["response"]


def test_rstar_maths_published_pairs_parse_after_their_prompt(data_dir: Path) -> None:
    rows = json.loads((data_dir / "rstar_ppm_pair_examples.json").read_text())
    assert len(rows) == 5
    for row in rows:
        for side in ("pos", "neg"):
            text = row["prompt"] + row[side]
            solution = parse_solution(text[text.index("<code>") :])
            tags = sum(text.count(tag) for tag in CLOSING_TAG.values())
            assert len(solution.steps) == tags
            if OUTPUT in text:
                assert solution.output is not None


def test_a_published_pair_with_its_prompt_left_on_is_refused_for_the_stray_tag(data_dir: Path) -> None:
    row = json.loads((data_dir / "rstar_ppm_pair_examples.json").read_text())[0]
    with pytest.raises(FormatError, match="step 1: a stray <code> inside a step"):
        parse_solution(row["prompt"] + row["pos"])
