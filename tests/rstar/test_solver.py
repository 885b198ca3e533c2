"""The solver as programs use it: answers, budgets, strategies, events, several callers at once, one clear line for mistakes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import rstar
from rstar import Answer, Finished, SearchConfig, Solver, StepsFound, StopReason, Strategy, Tree
from rstar.backends.scripted import ChainWorld, ScriptedPolicy, ScriptedValue
from rstar.engines import EngineConfig
from rstar.errors import ConfigError
from rstar.prompts import BARE, render_prompt
from rstar.protocols import Candidate, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.selection import Method
from rstar.steps import END_OF_STEP
from rstar.tree import check_invariants

WORLD = ChainWorld(num_operations=6)
WIDE = ChainWorld(num_operations=12, slip=0.6)
"""A world that no test exhausts."""
PROBLEMS = WORLD.problems(6)
QUESTION = PROBLEMS[0].question
SMALL = SearchConfig(num_rollouts=4, num_candidates=4)
ENDLESS = SearchConfig(num_rollouts=10_000, num_candidates=4, max_depth=30)
ONE_SHARD = SandboxConfig(num_shards=1)


class SlowPolicy(ScriptedPolicy):
    """Answers after a pause; counts the requests that were cancelled."""

    def __init__(self, pause_s: float, world: ChainWorld = WORLD) -> None:
        super().__init__(world.respond)
        self.pause_s = pause_s
        self.asked = 0
        self.cancelled = 0

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self.asked += 1
        try:
            await asyncio.sleep(self.pause_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().propose(request)


def scripted_value() -> ScriptedValue:
    """Likes long texts: any fixed function does."""
    return ScriptedValue(lambda text: (len(text) % 17) / 8.5 - 1)


@pytest.fixture(scope="module")
def solver() -> Iterator[Solver]:
    with Solver(WORLD.policy(), search=SMALL, sandbox=ONE_SHARD) as opened:
        yield opened


def shape(tree: Tree) -> list[tuple[int, str, int, float]]:
    return [(node.parent, node.text, node.visit_count, node.value_sum) for node in tree.nodes]


def test_a_question_gets_an_answer_with_all_that_speaks_for_it(solver: Solver) -> None:
    found = solver.solve(QUESTION)
    assert found.answer is not None
    assert found.trajectory is not None
    assert found.trajectory.answer == found.answer
    assert f"<output>{found.answer}<end_of_output>" in found.trajectory.text
    assert found.alternatives[0].answer == found.answer
    assert found.confidence == found.alternatives[0].support
    assert sum(one.support for one in found.alternatives) == pytest.approx(1)
    assert found.cost.tokens == found.tree.num_tokens > 0
    assert found.cost.executions == found.tree.num_executions > 0
    assert found.cost.rollouts == SMALL.num_rollouts
    assert found.stopped_by is StopReason.ROLLOUTS
    check_invariants(found.tree)


def test_a_policy_that_is_always_right_is_trusted() -> None:
    world = ChainWorld(slip=0.0, crash=0.0, nonsense=0.0)
    problems = world.problems(4)
    with Solver(world.policy(), search=SMALL, sandbox=ONE_SHARD) as always_right:
        found = always_right.solve_many([problem.question for problem in problems], progress=False)
    assert [one.answer for one in found] == [problem.answer for problem in problems]
    assert all(one.confidence == 1 for one in found)


def test_neither_answers_nor_trees_have_a_place_for_a_reference_answer() -> None:
    for kind in (Answer, Tree, SearchConfig, Finished, StepsFound):
        assert not [f.name for f in dataclasses.fields(kind) if "reference" in f.name or "gold" in f.name]
    parameters = {*Solver.__init__.__annotations__, *Solver.solve.__annotations__}
    assert not parameters & {"reference", "problem", "truth"}


def test_no_answer_is_called_verified(solver: Solver) -> None:
    assert all(node.verified is None for node in solver.solve(QUESTION).tree.nodes)


def test_the_same_seed_gives_the_same_tree_alone_or_among_others(solver: Solver) -> None:
    alone = solver.solve(QUESTION)
    among = solver.solve_many([problem.question for problem in PROBLEMS], progress=False)[0]
    assert shape(alone.tree) == shape(among.tree)
    assert alone.answer == among.answer
    assert shape(solver.solve(QUESTION, seed=1).tree) != shape(alone.tree)


def test_equal_questions_asked_at_once_do_not_touch_each_others_states(solver: Solver) -> None:
    alone = shape(solver.solve(QUESTION).tree)
    for found in solver.solve_many([QUESTION] * 12, progress=False):
        assert shape(found.tree) == alone


def test_many_questions_are_answered_in_their_order(solver: Solver) -> None:
    questions = [problem.question for problem in PROBLEMS]
    assert [one.question for one in solver.solve_many(questions, progress=False)] == questions


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_answers_with_a_sound_tree_that_a_seed_decides(strategy: Strategy) -> None:
    trees = []
    for _ in range(2):
        with Solver(
            WORLD.policy(), ppm=scripted_value(), strategy=strategy, search=SMALL, sandbox=ONE_SHARD
        ) as one:
            found = one.solve(QUESTION)
        assert found.strategy is strategy
        assert found.answer is not None or strategy is Strategy.GREEDY  # a single path may fail
        check_invariants(found.tree)
        trees.append(shape(found.tree))
    assert trees[0] == trees[1]


def test_a_deadline_gives_the_best_answer_known_by_then() -> None:
    with Solver(
        SlowPolicy(0.01),
        search=dataclasses.replace(SMALL, num_rollouts=10_000, max_depth=30),
        sandbox=ONE_SHARD,
    ) as slow:
        found = slow.open().solve(QUESTION, seconds=1.0)
        assert found.stopped_by is StopReason.SECONDS
        assert found.answer is not None
        check_invariants(found.tree)
        nothing = slow.solve(QUESTION, seconds=0.001)
    assert nothing.answer is None
    assert nothing.reason == "the search ended before its first step was found"


def test_a_token_budget_ends_the_search_after_the_rollout_that_reaches_it() -> None:
    search = dataclasses.replace(SMALL, num_rollouts=100, max_tree_tokens=2000)
    with Solver(WIDE.policy(), search=search, sandbox=ONE_SHARD) as frugal:
        found = frugal.solve(QUESTION)
    assert found.stopped_by is StopReason.TOKENS
    assert found.cost.tokens >= 2000
    assert found.cost.rollouts < 100


def test_a_search_ends_when_its_vote_is_decided() -> None:
    world = ChainWorld(slip=0.0, crash=0.0, nonsense=0.0)
    search = dataclasses.replace(SMALL, num_rollouts=50, num_candidates=1)
    with Solver(
        ScriptedPolicy(lambda prefix, chance: f"# {chance.randrange(10**6)}\n" + world.respond(prefix, chance)
                       if "<end_of_code>" not in prefix else world.respond(prefix, chance)),
        search=search, strategy="mcts", certainty=0.9, sandbox=ONE_SHARD,
    ) as sure:  # fmt: skip
        found = sure.solve(QUESTION)
    assert found.stopped_by in (StopReason.CONVERGED, StopReason.EXHAUSTED)
    assert found.cost.rollouts < 50


def test_a_search_says_why_it_abstains() -> None:
    broken = ScriptedPolicy(lambda prefix, chance: f"x = 1 / 0\n{END_OF_STEP}")
    with Solver(broken, search=SMALL, sandbox=ONE_SHARD) as hopeless:
        found = hopeless.solve(QUESTION)
    assert found.answer is None
    assert found.confidence == 0
    assert found.trajectory is None
    assert found.reason == "no step ran: 1 were tried, most often with ZeroDivisionError (1 times)"


def test_events_tell_of_every_node_once_and_end_with_the_answer(solver: Solver) -> None:
    async def listen() -> list[StepsFound | Finished]:
        return [event async for event in solver.stream(QUESTION)]

    *steps, last = asyncio.run(listen())
    assert isinstance(last, Finished)
    told = [node_id for event in steps if isinstance(event, StepsFound) for node_id in event.node_ids]
    assert told == list(range(1, len(last.answer.tree.nodes)))
    assert shape(last.answer.tree) == shape(solver.solve(QUESTION).tree)


def test_closing_the_stream_ends_the_search() -> None:
    policy = SlowPolicy(0.01, WIDE)
    with Solver(policy, search=ENDLESS, sandbox=ONE_SHARD) as slow:

        async def listen() -> None:
            events = slow.stream(QUESTION)
            await anext(events)
            await events.aclose()

        asyncio.run(listen())
        deadline = time.monotonic() + 20
        while not policy.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
    assert policy.cancelled


def test_cancelling_an_awaited_answer_ends_its_search_and_no_other() -> None:
    policy = SlowPolicy(0.02)
    with Solver(policy, search=SMALL, sandbox=ONE_SHARD) as slow:

        async def ask() -> str | None:
            first = asyncio.create_task(slow.asolve(QUESTION))
            second = asyncio.create_task(slow.asolve(PROBLEMS[1].question))
            await asyncio.sleep(0.1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return (await second).answer

        assert asyncio.run(ask()) is not None


def test_event_loops_of_several_threads_use_one_solver_at_once(solver: Solver) -> None:
    answers: dict[int, Any] = {}

    def ask(index: int) -> None:
        answers[index] = asyncio.run(solver.asolve(PROBLEMS[index].question)).answer

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = solver.solve_many([problem.question for problem in PROBLEMS[:4]], progress=False)
    assert [answers[index] for index in range(4)] == [one.answer for one in alone]


def test_an_interrupt_gives_what_every_search_knows_those_that_wait_for_their_turn_too() -> None:
    engine = EngineConfig(max_trees_in_flight=2)
    policy = SlowPolicy(0.01, WIDE)
    with Solver(policy, backend=engine, search=ENDLESS, sandbox=ONE_SHARD) as slow:

        def interrupt_later() -> None:
            while policy.asked < 100:  # by then both trees that are searched have answers
                time.sleep(0.01)
            slow.interrupt()

        threading.Thread(target=interrupt_later).start()
        found = slow.solve_many([problem.question for problem in PROBLEMS], progress=False)
    assert {one.stopped_by for one in found} == {StopReason.INTERRUPTED}
    assert sum(one.answer is not None for one in found) == 2
    assert all(one.reason for one in found if one.answer is None)


CTRL_C = """
import asyncio, signal
from rstar import SearchConfig, Solver
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.sandbox import SandboxConfig

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background

class Slow(ScriptedPolicy):
    async def propose(self, request):
        await asyncio.sleep(0.01)
        return await super().propose(request)

world = ChainWorld(num_operations=12, slip=0.6)
search = SearchConfig(num_rollouts=10_000, num_candidates=4, max_depth=30)
with Solver(Slow(world.respond), search=search, sandbox=SandboxConfig(num_shards=1)) as solver:
    solver.open()
    print("ready", flush=True)
    found = solver.solve_many([problem.question for problem in world.problems(3)], progress=False)
    print([str(one.stopped_by) for one in found], flush=True)
"""


def test_ctrl_c_returns_partial_results_of_many_questions() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "['interrupted', 'interrupted', 'interrupted']\n", err
    assert process.returncode == 0


def test_a_closed_solver_leaves_nothing_running() -> None:
    before = {thread.name for thread in threading.enumerate()}
    one = Solver(WORLD.policy(), search=SMALL, sandbox=ONE_SHARD)
    one.solve(QUESTION)
    one.close()
    one.close()
    assert "rstar-solver" not in {thread.name for thread in threading.enumerate()} - before


def test_options_change_for_one_question_and_share_everything_else(solver: Solver) -> None:
    other = solver.with_options(strategy="majority", seed=3, search=SearchConfig(num_rollouts=2))
    found = other.solve(QUESTION)
    assert (found.strategy, found.seed, found.cost.rollouts) == (Strategy.MAJORITY, 3, 2)
    assert (solver.strategy, solver.options.seed, solver.search.num_rollouts) == (Strategy.MCTS, 0, 4)
    assert len([thread for thread in threading.enumerate() if thread.name == "rstar-solver"]) == 1
    again = solver.with_options(strategy="greedy").with_options(strategy="mcts")
    assert again.search == solver.search  # nothing of greedy is left
    with pytest.raises(ConfigError, match="strategy beam needs a preference model"):
        solver.with_options(strategy="beam")


def test_an_answer_knows_the_length_of_its_prompt(solver: Solver) -> None:
    found = solver.solve(QUESTION)
    assert found.cost.prompt_tokens == len(render_prompt(BARE, QUESTION).encode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "beem"}, "strategy is 'beem'; it must be one of mcts, beam, best_of_n, majority, greedy"),
        ({"strategy": "beam"}, "strategy beam needs a preference model and there is none"),
        ({"strategy": "best_of_n"}, "strategy best_of_n needs a preference model and there is none"),
        ({"selection": "weighted_vote"}, "selection weighted_vote needs a preference model and there is none"),
        ({"backend": "tensorflow"}, "backend is 'tensorflow'; it must be one of transformers, vllm, openai"),
        ({"prompt_format": "bear"}, "prompt_format is 'bear'; it must be one of bare, rstar"),
        ({"seconds": 0}, "seconds is 0; it must be above 0, or None"),
        ({"certainty": 0.5}, "certainty is 0.5; it must be in (0.5, 1], or None"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_said_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Solver(WORLD.policy(), **arguments)
    assert str(caught.value).startswith(message)


def test_an_empty_question_is_refused(solver: Solver) -> None:
    with pytest.raises(ConfigError, match="the question is empty"):
        solver.solve("  \n")


def test_a_folder_without_a_model_is_named_with_every_question(tmp_path: Path) -> None:
    with Solver(tmp_path / "no-model", sandbox=ONE_SHARD) as hopeless:
        for _ in range(2):
            with pytest.raises(ConfigError, match="no-model"):
                hopeless.solve(QUESTION)


def test_the_default_selection_follows_strategy_and_preference_model() -> None:
    def selection(**arguments: Any) -> Method:
        return Solver(WORLD.policy(), **arguments).selection

    assert selection() is Method.MAJORITY
    assert selection(ppm=scripted_value()) is Method.WEIGHTED_VOTE
    assert selection(ppm=scripted_value(), strategy="best_of_n") is Method.BEST
    assert selection(ppm=scripted_value(), strategy="majority") is Method.MAJORITY


def test_the_public_names_are_these() -> None:
    names: Sequence[str] = rstar.__all__
    assert names == [
        "Alternative", "Answer", "BackendError", "ConfigError", "Cost", "EngineConfig", "Finished", "FormatError",
        "GradingError", "Method", "Problem", "ProblemError", "RstarError", "SamplingConfig", "SandboxError",
        "SearchConfig", "Solver", "StageError", "StepsFound", "StopReason", "StoreError", "Strategy", "Tree",
    ]  # fmt: skip
    for name in names:
        assert getattr(rstar, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'solver_of_everything'"):
        _ = rstar.solver_of_everything
