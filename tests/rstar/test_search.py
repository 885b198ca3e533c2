"""Many trees at once: the same trees whatever else runs, nothing lost, nothing left running."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import multiprocessing
import random
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import cast, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar import evaluation, protocols
from rstar.backends.scripted import BrokenPolicy, ScriptedPolicy
from rstar.config import Guidance, SearchConfig, Selection
from rstar.errors import BackendError, ConfigError
from rstar.evaluation import SearchCounts
from rstar.prompts import PromptFormat
from rstar.protocols import Candidate, ExecutionVerdict, ProposeRequest
from rstar.search import SearchResult, SearchTask, TreeSearch, search_trees
from rstar.tree import Node, TerminalReason, Tree, check_invariants
from tests.rstar.fakes import InProcessSandbox, TextJudge
from tests.rstar.naive_search import replay
from tests.rstar.virtual_clock import run_on_virtual_clock
from tests.rstar.worlds import (
    Faults,
    FaultyPolicy,
    RandomWorld,
    Slow,
    SlowPolicy,
    SlowSandbox,
    chain_trees,
    coarse_value,
    collect,
    engines,
    new_tree,
    search_one,
)

TERMINAL = SearchConfig(num_rollouts=4, num_candidates=3, max_depth=6)
PPM = dataclasses.replace(TERMINAL, guidance=Guidance.PPM)
WORLD = RandomWorld(final=0.3, crash=0.1)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "RETRY_DELAYS_S", (0.0, 0.0))


def tasks(count: int, *, seed: int = 0, reference: str | None = "1") -> list[SearchTask]:
    return [
        SearchTask(tree=new_tree(problem_id=f"p{i}", seed=seed), judge=TextJudge(reference))
        for i in range(count)
    ]


def by_name(results: Sequence[SearchResult]) -> dict[str, Tree]:
    return {result.tree.name: result.tree for result in results}


# --- fault 20: the same seed, the same trees ---


@pytest.mark.parametrize("config", [TERMINAL, PPM], ids=["terminal", "ppm"])
def test_fault_20_trees_do_not_depend_on_how_many_are_in_flight_nor_on_their_order(
    config: SearchConfig,
) -> None:
    expected = chain_trees(6, config)
    assert len(expected) == 6
    assert any(len(tree.nodes) > 10 for tree in expected.values())
    for max_trees_in_flight in (1, 2, 5):
        assert chain_trees(6, config, max_trees_in_flight=max_trees_in_flight) == expected
    assert chain_trees(6, config, reverse=True) == expected


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from([TERMINAL, PPM]))
@settings(max_examples=15)
def test_fault_20_trees_do_not_depend_on_latency(seed: int, in_flight: int, config: SearchConfig) -> None:
    calm = asyncio.run(collect(tasks(5), engines(WORLD.respond, value=coarse_value), config))
    slow = engines(
        SlowPolicy(WORLD.respond, Slow(seed, 3.0)),
        sandbox=SlowSandbox(Slow(seed + 1, 9.0)),
        value=coarse_value,
    )
    hectic, _ = run_on_virtual_clock(collect(tasks(5), slow, config, max_trees_in_flight=in_flight))
    assert by_name(hectic) == by_name(calm)


def test_fault_20_one_worker_process_and_four_grow_the_same_trees() -> None:
    config = TERMINAL
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as workers:
        parts = [workers.submit(chain_trees, 8, config, share=share, shares=4) for share in range(4)]
        together = {name: tree for part in parts for name, tree in part.result().items()}
    assert together == chain_trees(8, config)


def test_fault_20_different_seeds_and_different_tree_indices_give_different_trees() -> None:
    grown = [
        search_one(new_tree(seed=seed, tree_index=index), engines(WORLD.respond), TERMINAL)
        for seed, index in [(0, 0), (1, 0), (0, 1), (0, 0)]
    ]
    shapes = [[(node.parent, node.text) for node in tree.nodes] for tree in grown]
    assert shapes[0] == shapes[3]
    assert shapes[0] != shapes[1]
    assert shapes[0] != shapes[2]


# --- reopening ---


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(0, 6), st.sampled_from([TERMINAL, PPM]))
@settings(max_examples=30)
def test_k_rollouts_and_m_more_on_a_reopened_tree_are_k_plus_m_at_once(
    seed: int, k: int, m: int, config: SearchConfig
) -> None:
    config = dataclasses.replace(config, selection=Selection(["uct", "puct"][seed % 2]))
    parts = engines(WORLD.respond, value=coarse_value)
    at_once = search_one(new_tree(seed=seed), parts, config, num_rollouts=k + m)
    stored = copy.deepcopy(search_one(new_tree(seed=seed), parts, config, num_rollouts=k))
    reopened = search_one(stored, engines(WORLD.respond, value=coarse_value), config, num_rollouts=m)
    assert reopened == at_once
    replay(reopened, config)


def test_no_more_rollouts_leave_a_tree_as_it_is() -> None:
    tree = search_one(new_tree(), engines(WORLD.respond), TERMINAL, num_rollouts=0)
    assert tree == new_tree()


# --- faults ---


def test_fault_14_a_back_end_that_fails_now_and_then_changes_nothing() -> None:
    counts = SearchCounts()
    results = asyncio.run(
        collect(tasks(4), engines(BrokenPolicy(WORLD.respond, period=3)), TERMINAL, counts=counts)
    )
    assert [result.fault for result in results] == [""] * 4
    assert counts.retries > 0
    calm = asyncio.run(collect(tasks(4), engines(WORLD.respond), TERMINAL))
    assert by_name(results) == by_name(calm)


class PoisonedPolicy(ScriptedPolicy):
    """Out of order for one tree, fine for the others."""

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        if request.group == "p1#0":
            raise BackendError("out of memory")
        return await super().propose(request)


def test_fault_14_a_tree_whose_back_end_stays_out_of_order_is_parked_and_reported_and_the_others_go_on() -> (
    None
):
    counts = SearchCounts()
    results = asyncio.run(collect(tasks(3), engines(PoisonedPolicy(WORLD.respond)), TERMINAL, counts=counts))
    faults = {result.tree.name: result.fault for result in results}
    assert faults == {"p0#0": "", "p1#0": "BackendError: out of memory", "p2#0": ""}
    assert counts.retries == 2
    for result in results:
        check_invariants(result.tree)
        assert result.seconds >= 0


def test_fault_14_an_error_of_another_kind_stops_the_run_and_is_not_swallowed() -> None:
    def respond(prefix: str, chance: random.Random) -> str:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        asyncio.run(collect(tasks(3), engines(respond), TERMINAL))


def test_fault_14_too_few_candidates_are_the_back_ends_failure() -> None:
    class Short(ScriptedPolicy):
        async def propose(self, request: ProposeRequest) -> list[Candidate]:
            return (await super().propose(request))[:-1]

    (result,) = asyncio.run(collect(tasks(1), engines(Short(WORLD.respond)), TERMINAL))
    assert result.fault == "BackendError: the policy gave 2 candidates for 3"


def test_fault_7_equal_questions_keep_their_own_trees_and_their_own_sandbox_state() -> None:
    sandbox = InProcessSandbox()
    results = asyncio.run(collect(tasks(2), engines(WORLD.respond, sandbox=sandbox), TERMINAL))
    first, second = (result.tree for result in results)
    assert first.question == second.question
    assert {first.name, second.name} == {"p0#0", "p1#0"}
    assert [node.text for node in first.nodes] != [node.text for node in second.nodes]
    assert {request.group for request in sandbox.requests} == {"p0#0", "p1#0"}
    assert sorted(sandbox.released) == ["p0#0", "p1#0"]


REQUESTS = (
    Tree, Node, SearchConfig, protocols.ProposeRequest, protocols.ScoreRequest, protocols.RunRequest, PromptFormat,
)  # fmt: skip


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_fault_10_no_type_that_the_inference_path_handles_can_hold_a_reference_answer(kind: type) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    assert not {
        name for name in names if "reference" in name or "truth" in name or "gold" in name or name == "gt"
    }
    # `Node.answer` is what the policy wrote. No other field is an answer or a problem (which has one).
    assert {name for name in names if "answer" in name} == ({"answer"} if kind is Node else set())
    assert not any("Problem" in str(hint) for hint in get_type_hints(kind).values())


def test_fault_10_a_task_reaches_the_truth_only_through_its_judge() -> None:
    hints = get_type_hints(SearchTask)
    assert set(hints) == {"tree", "judge", "num_rollouts"}
    assert hints["judge"] is protocols.AnswerJudge


@pytest.mark.parametrize("config", [TERMINAL, PPM], ids=["majority", "ppm"])
def test_fault_10_at_inference_nothing_is_verified_and_the_reference_changes_nothing(
    config: SearchConfig,
) -> None:
    value = coarse_value if config.guidance is Guidance.PPM else None
    for tree in by_name(
        asyncio.run(collect(tasks(3, reference=None), engines(WORLD.respond, value=value), config))
    ).values():
        assert any(node.terminal is TerminalReason.ANSWERED for node in tree.nodes)
        assert all(node.verified is None for node in tree.nodes)
        assert not tree.solved
        check_invariants(tree)


# --- endings ---


def test_every_terminal_reason_is_reached_and_counted_once() -> None:
    counts = SearchCounts()
    world = RandomWorld(final=0.3, crash=0.4, nonsense=0.1, own_output=0.05)
    policy = ScriptedPolicy(world.respond, max_context_tokens=220)
    config = SearchConfig(num_rollouts=6, num_candidates=3, max_depth=4)
    results = asyncio.run(collect(tasks(30), engines(policy), config, counts=counts))
    trees = [result.tree for result in results]
    total = sum((tree.terminal_reasons() for tree in trees), start=type(trees[0].terminal_reasons())())
    assert set(total) == set(TerminalReason)
    assert counts.terminals == total
    assert counts.nodes == sum(len(tree.nodes) - 1 for tree in trees)
    assert counts.tokens == sum(tree.num_tokens for tree in trees)
    assert counts.rollouts == sum(tree.num_rollouts for tree in trees)
    assert counts.executions.total() == sum(tree.num_executions for tree in trees)
    assert counts.expansions == sum(len({node.parent for node in tree.nodes[1:]}) for tree in trees)
    failed = sum(not node.live for tree in trees for node in tree.nodes)
    assert counts.executions[ExecutionVerdict.ERROR] == failed
    for tree in trees:
        check_invariants(tree)


def test_fault_17_a_question_without_room_for_a_step_ends_at_its_root() -> None:
    prompt = len(f"<|user|>\n{new_tree().question}\n<|assistant|>\n<code>\n")
    for limit, room in [(prompt - 1, False), (prompt, False), (prompt + 1, True)]:
        counts = SearchCounts()
        asked = FaultyPolicy(WORLD.respond, faults := Faults(()))
        asked._max_context_tokens = limit
        tree = search_one(new_tree(), engines(asked), TERMINAL, counts=counts)
        check_invariants(tree)
        assert tree.exhausted
        assert tree.root.visit_count > 0
        assert tree.root.value_sum == -tree.root.visit_count
        assert set(tree.terminal_reasons()) == {TerminalReason.CONTEXT_OVERFLOW}
        assert counts.terminals == tree.terminal_reasons()
        assert (faults.calls > 0) == (len(tree.nodes) > 1) == room
        assert (tree.root.terminal is None) == room
        assert tree.root.error == ("" if room else "no room for a next step")


def test_no_candidate_goes_beyond_the_context_and_ids_match_their_log_probabilities() -> None:
    for limit in range(75, 130, 9):
        policy = ScriptedPolicy(WORLD.respond, max_context_tokens=limit)
        tree = search_one(new_tree(), engines(policy), TERMINAL)
        for node in tree.nodes:
            longest = max((len(tree.nodes[child].token_ids) for child in node.children), default=0)
            above = sum(
                len(step.text.encode())
                for step in map(tree.nodes.__getitem__, tree.path(tree.nodes.index(node)))
            )
            assert above + longest <= limit


def test_a_tree_stops_after_the_rollout_that_spends_its_tokens() -> None:
    config = dataclasses.replace(TERMINAL, num_rollouts=50, max_tree_tokens=400)
    tree = search_one(new_tree(seed=3), engines(WORLD.respond), config)
    assert tree.num_tokens >= 400
    assert 0 < tree.num_rollouts < 50
    assert not tree.exhausted
    last = [node for node in tree.nodes[1:] if node.rollout == tree.num_rollouts - 1]
    earlier = search_one(new_tree(seed=3), engines(WORLD.respond), config, num_rollouts=tree.num_rollouts - 1)
    assert earlier.num_tokens < 400
    assert len(earlier.nodes) + len(last) == len(tree.nodes)


def test_an_exhausted_tree_needs_no_more_rollouts() -> None:
    config = dataclasses.replace(TERMINAL, num_rollouts=100)
    world = RandomWorld(final=1.0, crash=0, nonsense=0, own_output=0, variants=1)
    tree = search_one(new_tree(), engines(world.respond), config)
    assert tree.exhausted
    assert (tree.num_rollouts, len(tree.nodes)) == (1, 3)


# --- the iterator ---


def test_closing_the_iterator_cancels_everything_and_leaves_no_task_and_no_state() -> None:
    sandbox = InProcessSandbox()
    trees = [task.tree for task in tasks(6)]

    async def first_only() -> None:
        policy = SlowPolicy(WORLD.respond, Slow(1, 1.0))
        many = [SearchTask(tree=tree, judge=TextJudge("1")) for tree in trees]
        results = search_trees(many, engines(policy, sandbox=sandbox), TERMINAL, max_trees_in_flight=4)
        async for result in results:
            assert result.fault == ""
            break
        clock = asyncio.get_running_loop().time
        closing_at = clock()
        await cast(AsyncGenerator[SearchResult, None], results).aclose()
        assert clock() == closing_at, "what was in flight is cancelled, not waited for"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_on_virtual_clock(first_only())
    for tree in trees:
        check_invariants(tree)
    started = {tree.name for tree in trees if len(tree.nodes) > 1}
    assert started
    assert started <= set(sandbox.released)
    assert len(trees[-1].nodes) == 1  # never started


def test_no_more_trees_than_allowed_are_in_flight_and_a_slow_one_holds_up_no_other() -> None:
    running: set[str] = set()
    most = 0

    class Watching(ScriptedPolicy):
        async def propose(self, request: ProposeRequest) -> list[Candidate]:
            nonlocal most
            running.add(request.group)
            most = max(most, len(running))
            await asyncio.sleep(1000 if request.group == "p0#0" else 1)
            return await super().propose(request)

    order: list[str] = []

    async def run() -> None:
        many = iter(tasks(9))  # any iterable, read as trees end
        async for result in search_trees(
            many, engines(Watching(WORLD.respond)), TERMINAL, max_trees_in_flight=3
        ):
            running.discard(result.tree.name)
            order.append(result.tree.name)

    run_on_virtual_clock(run())
    assert most == 3
    assert len(order) == 9
    assert order[-1] == "p0#0"


def test_ppm_guidance_without_a_value_model_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="there is no value model; give one, or set guidance=terminal"):
        TreeSearch(new_tree(), engines(WORLD.respond), TextJudge("1"), PPM)
    with pytest.raises(ConfigError, match="there is no value model"):
        asyncio.run(collect(tasks(2), engines(WORLD.respond), PPM))


def test_requests_carry_seed_group_stop_and_sampling() -> None:
    asked: list[ProposeRequest] = []

    class Asking(ScriptedPolicy):
        async def propose(self, request: ProposeRequest) -> list[Candidate]:
            asked.append(request)
            return await super().propose(request)

    format = PromptFormat(name="x", stop=("<end_of_step>",))
    search_one(new_tree(problem_id="p7"), engines(Asking(WORLD.respond)), TERMINAL, format=format)
    assert {request.group for request in asked} == {"p7#0"}
    assert {request.num_candidates for request in asked} == {TERMINAL.num_candidates}
    assert {request.stop for request in asked} == {("<end_of_step>",)}
    assert all(request.sampling == TERMINAL.sampling for request in asked)
    assert len({request.seed for request in asked}) == len(asked)
