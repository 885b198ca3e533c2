"""`rstar solve` as a person and as a program use it, with the embedded model."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

import rounds.cli  # noqa: F401 - registers the commands
from rounds.base_model import BASE_MODEL
from rounds.solve import latest_models
from rstar.answers import Finished
from rstar.cli import app
from rstar.config import SearchConfig
from rstar.errors import ConfigError
from rstar.exports import read_tree
from rstar.solver import Solver
from rstar.terminal import draw_answer, draw_search

QUESTION = "what is the remainder when 84 is divided by 23?"
QUICK = [
    "--set",
    "search.num_rollouts=2",
    "--set",
    "search.num_candidates=3",
    "--set",
    "engine.num_replicas=0",
]


def test_a_question_is_answered_in_plain_text(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["solve", QUESTION, "--run", str(tmp_path), "--strategy", "greedy", *QUICK])
    assert ran.exit_code == 0, ran.output
    assert "ans = 84 % 23" in ran.output
    assert "\n15\n" in ran.output.replace(" \n", "\n")


def test_a_program_gets_json_and_the_question_may_come_through_a_pipe(tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    ran = CliRunner().invoke(
        app,
        ["solve", "-", "--run", str(tmp_path), "--json", "--tree", str(tree), *QUICK],
        input=f"{QUESTION}\n",
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["question"] == QUESTION
    assert found["answer"] == found["alternatives"][0]["answer"]
    assert found["cost"]["tokens"] == read_tree(tree).num_tokens


def test_no_answer_is_exit_code_1_and_a_reason(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        app, ["solve", QUESTION, "--run", str(tmp_path), "--seconds", "0.000001", *QUICK]
    )
    assert ran.exit_code == 1
    assert "no answer: the search ended before its first step was found" in ran.output


def test_mistakes_are_said_in_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--strategy", "beam"], "strategy beam needs a preference model"),
        (
            ["--set", "serach.num_rollouts=2"],
            "unknown section serach; settings begin with search, sandbox, engine",
        ),
        (["--policy", str(tmp_path / "nothing")], "nothing"),
    ):
        ran = CliRunner().invoke(app, ["solve", QUESTION, "--run", str(tmp_path), *arguments])
        assert isinstance(ran.exception, ConfigError)
        assert message in str(ran.exception)
        assert "\n" not in str(ran.exception)


def test_without_a_finished_round_the_embedded_base_model_answers(tmp_path: Path) -> None:
    found = latest_models(tmp_path)
    assert (found.policy, found.ppm) == (BASE_MODEL, None)
    assert "has no finished round yet" in found.origin


def test_a_growing_tree_fits_the_terminal_whatever_its_size() -> None:

    async def watch() -> None:
        search = SearchConfig(num_rollouts=3, num_candidates=6)
        with Solver(BASE_MODEL, search=search) as solver:
            async for event in solver.stream(QUESTION):
                console = Console(file=io.StringIO(), width=100, height=8)
                if isinstance(event, Finished):
                    console.print(draw_answer(event.answer))
                    assert str(event.answer.answer) in console.file.getvalue()  # type: ignore[attr-defined]
                else:
                    console.print(draw_search(event.tree, event.node_ids, height=6), no_wrap=True)
                    assert QUESTION[:20] in console.file.getvalue()  # type: ignore[attr-defined]

    asyncio.run(watch())
