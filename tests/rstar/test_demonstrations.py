"""The worked examples do what they show: parse, run in the sandbox, print what stands there, answer what they print."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rstar.demonstrations import DEMONSTRATIONS
from rstar.grading import Grader
from rstar.prompts import FORMATS, render_prompt
from rstar.protocols import ExecutionResult, ExecutionVerdict, RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool
from rstar.steps import StepKind, codes, parse_solution, render_solution


async def run_all(programs: Sequence[tuple[str, ...]]) -> list[list[ExecutionResult]]:
    """What each step of each program did, one sandbox for all."""
    async with SandboxPool(SandboxConfig(num_shards=1)) as sandbox:
        return [
            [
                await sandbox.run(RunRequest(code=step, history=code[:i], group=str(number)))
                for i, step in enumerate(code)
            ]
            for number, code in enumerate(programs)
        ]


@pytest.mark.filterwarnings("ignore:sandbox")
def test_every_step_of_the_demonstrations_runs_and_the_answer_is_what_the_program_prints() -> None:
    solutions = [parse_solution(shown.solution) for shown in DEMONSTRATIONS]
    assert [render_solution(solution) for solution in solutions] == [
        shown.solution for shown in DEMONSTRATIONS
    ]
    ran = asyncio.run(run_all([codes(solution.steps) for solution in solutions]))
    with Grader() as grader:
        for solution, results in zip(solutions, ran, strict=True):
            assert {result.verdict for result in results} == {ExecutionVerdict.OK}
            printed = "".join(result.stdout for result in results).strip()
            assert printed == solution.output
            assert solution.steps[-1].kind is StepKind.ANSWER
            assert grader.grade_sync(solution.steps[-1].answer or "", printed).equal


def test_demonstrations_show_more_than_one_code_step_each_and_different_questions() -> None:
    assert len({shown.question for shown in DEMONSTRATIONS}) == len(DEMONSTRATIONS) >= 2
    assert all(shown.solution.count("<end_of_step>") >= 1 for shown in DEMONSTRATIONS)


def test_few_shot_formats_show_all_demonstrations_before_the_question_and_end_where_the_first_step_begins() -> (
    None
):
    plain = render_prompt(FORMATS["few-shot"], "How many?")
    assert plain.endswith("Problem:\nHow many?\n\nSolution:\n<code>\n")

    def render_chat(messages: object) -> str:
        return f"{messages}\nASSISTANT:"

    chat = render_prompt(FORMATS["few-shot-chat"], "How many?", render_chat)
    assert chat.endswith("ASSISTANT:<code>\n")
    for shown in DEMONSTRATIONS:
        assert plain.index(shown.solution) < plain.index("How many?")
        assert repr(shown.solution)[1:-1] in chat
