"""vLLM as a policy, the real engine: the contract, the trees of transformers, aborts, death in mid-search, settings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rounds.base_model import BASE_MODEL
from rounds.curriculum import Level, Split, generate
from rstar.backends.transformers import TransformersPolicy
from rstar.backends.vllm.config import VLLMConfig
from rstar.backends.vllm.policy import VLLMPolicy
from rstar.config import SearchConfig, build
from rstar.engines import EngineConfig
from rstar.errors import ConfigError
from rstar.evaluation import Engines
from rstar.protocols import PolicyBackend, SamplingConfig
from rstar.search import SearchTask, search_trees
from rstar.tree import Tree, check_invariants
from tests.rstar.backends.contract import PolicyContract, Served, check_closed, request, serve
from tests.rstar.backends.tiny_models import save_vllm_model
from tests.rstar.fakes import InProcessSandbox, TextJudge

STARTS_TIMEOUT_S = 600
SMALL = VLLMConfig(kv_cache_mb=64)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(STARTS_TIMEOUT_S)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vllm_model(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="session")
def served(model: Path) -> Iterator[Served]:
    """One engine for all the tests that leave it whole."""
    with serve(VLLMPolicy(model, SMALL), model) as served:
        served.runner.run(policy_of(served).start())
        yield served


def policy_of(served: Served) -> VLLMPolicy:
    assert isinstance(served.policy, VLLMPolicy)
    return served.policy


class TestContract(PolicyContract):
    """Of every policy."""


def test_a_cancelled_request_is_aborted_in_the_engine(served: Served) -> None:
    """Ten times what the context holds would take as many tokens; the engine is free long before."""
    policy = policy_of(served)

    async def run() -> tuple[int, int]:
        before = policy.stats()
        asked = request(policy, prefix_ids=(20, 21), num_candidates=64, max_step_tokens=250, stop=())
        tasks = [asyncio.ensure_future(policy.propose(asked)) for _ in range(8)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await policy.propose(request(policy, max_step_tokens=2))
        done = policy.stats() - before
        return done.generated_tokens, done.steps

    generated, steps = served.run(run())
    assert generated < 8 * 64 * 250 / 2
    assert steps < 4 * 250 / 2


def test_prefixes_come_from_the_cache_in_whole_blocks(served: Served) -> None:
    policy = policy_of(served)

    async def run() -> int:
        prefix = tuple(range(30, 30 + 100))
        await policy.propose(request(policy, prefix_ids=prefix, num_candidates=1))
        before = policy.stats().cached_tokens
        await policy.propose(request(policy, prefix_ids=(*prefix, 40, 41), num_candidates=1))
        return policy.stats().cached_tokens - before

    assert served.run(run()) == 96


async def greedy_trees(policy: PolicyBackend, count: int = 6) -> list[Tree]:
    """Trees of the embedded model's most probable steps."""
    problems = generate(Split.EVAL, Level.EASY, count, 0)
    config = SearchConfig(num_rollouts=2, num_candidates=2, sampling=SamplingConfig(temperature=0.0))
    tasks = [
        SearchTask(tree=Tree(problem_id=p.id, question=p.question), judge=TextJudge(p.answer))
        for p in problems
    ]
    engines = Engines(policy=policy, sandbox=InProcessSandbox())
    found = []
    async for result in search_trees(tasks, engines, config, max_trees_in_flight=count):
        assert not result.fault, result.fault
        check_invariants(result.tree)
        assert len(result.tree.nodes) >= 4
        found.append(result.tree)
    return sorted(found, key=lambda tree: tree.problem_id)


def plain(trees: Sequence[Tree]) -> list[Any]:
    """Steps and statistics of the trees, without what floating-point noise touches."""
    return [
        [(node.parent, node.text, node.token_ids, node.visit_count, node.value_sum) for node in tree.nodes]
        for tree in trees
    ]


def test_greedy_trees_are_those_of_transformers_although_the_engine_is_killed_in_mid_search() -> None:
    async def run() -> None:
        ours = TransformersPolicy(BASE_MODEL, num_replicas=0, dtype="float32")
        expected = await greedy_trees(ours)
        await ours.aclose()
        policy = VLLMPolicy(BASE_MODEL, SMALL, dtype="float32")
        await policy.start()
        assert plain(await greedy_trees(policy)) == plain(expected)
        (victim,) = policy._pool.pids
        os.kill(victim, signal.SIGSTOP)
        again = asyncio.ensure_future(greedy_trees(policy))
        await asyncio.sleep(0.1)  # the first requests are on their way
        os.kill(victim, signal.SIGKILL)
        assert plain(await again) == plain(expected)
        assert policy._pool.pids != [victim]
        await check_closed(policy)

    asyncio.run(run())


@pytest.mark.slow
def test_two_engines_give_the_candidates_of_one_and_share_the_trees(model: Path, served: Served) -> None:
    asked = [request(served.policy, text=i % 4, seed=i, group=f"tree {i // 4}") for i in range(24)]
    expected = served.propose(*asked)

    async def run() -> None:
        policy = VLLMPolicy(model, VLLMConfig(kv_cache_mb=64, num_engines=2))
        found = await asyncio.gather(*map(policy.propose, asked))
        assert [[c.token_ids for c in cs] for cs in found] == [[c.token_ids for c in cs] for cs in expected]
        assert len({id(place) for place in policy._pool._place_of_group.values()}) == 2
        pids = policy._pool.pids
        await policy.aclose()
        assert not any(psutil.pid_exists(pid) for pid in pids)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks take two cores")
def test_tensor_parallel_engines_give_the_candidates_of_one_rank_and_end_with_their_parent(
    tmp_path: Path, served: Served
) -> None:
    model = save_vllm_model(tmp_path, num_key_value_heads=2)

    async def run(tensor_parallel: int) -> tuple[list[Any], list[psutil.Process]]:
        policy = VLLMPolicy(model, VLLMConfig(kv_cache_mb=64, tensor_parallel=tensor_parallel))
        found = await policy.propose(request(policy, temperature=0.0))
        (pid,) = policy._pool.pids
        ranks = psutil.Process(pid).children(recursive=True)
        await policy.aclose()
        return [c.token_ids for c in found], ranks

    one, _ = asyncio.run(run(1))
    two, ranks = asyncio.run(run(2))
    assert one == two
    assert len(ranks) >= 2
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"backend": "vlm"}, "backend is 'vlm'"),
        ({"backend": "vllm", "num_replicas": 2}, "num_replicas is 2; it must be null with vllm, whose engines are"),
        ({"vllm": {"tensor_paralel": 2}}, "unknown key vllm.tensor_paralel; did you mean tensor_parallel"),
        ({"vllm": {"num_engines": 0}}, "vllm.num_engines is 0; it must be at least 1"),
        ({"vllm": {"num_engines": 2, "devices": [0]}}, "must be 2 numbers, one for each GPU"),
        ({"vllm": {"num_engines": 2, "devices": [1, 1]}}, "different numbers from 0 on"),
        ({"vllm": {"policy_memory_share": 0.8}}, "the engines on GPU 0 take less than all of it; they take 1.10"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_line(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        build(EngineConfig, values)
    assert "\n" not in str(caught.value)


def test_settings_lay_engines_over_gpus() -> None:
    both = VLLMConfig(num_engines=2, tensor_parallel=2, num_ppm_engines=2)
    assert both.policy_groups == ((0, 1), (2, 3))
    assert both.ppm_groups == ((0,), (1,))
    assert both.num_gpus == 4
    apart = VLLMConfig(policy_memory_share=0.9, ppm_memory_share=0.9, devices=(1,), ppm_devices=(0,))
    assert apart.num_gpus == 2
    assert VLLMConfig(num_ppm_engines=2).ppm_groups == ((0,), (1,))


def test_what_vllm_cannot_do_is_refused_before_it_starts(model: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"config": VLLMConfig(max_model_len=1000)}, "has 256 positions"),
        ({"dtype": "float64"}, "float32 is the widest"),
    ]
    for arguments, expected in cases:
        with pytest.raises(ConfigError, match=expected):
            VLLMPolicy(model, **arguments)
