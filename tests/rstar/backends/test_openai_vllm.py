"""The back-end against a real `vllm serve` process with the embedded base model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rounds.curriculum import Level, Split, generate
from rstar.backends.openai.config import OpenAIConfig
from rstar.backends.openai.policy import OpenAIPolicy
from rstar.backends.transformers import TransformersPolicy
from rstar.config import SearchConfig, build, greedy
from rstar.errors import ConfigError
from rstar.evaluation import Engines
from rstar.prompts import BARE, PromptFormat, render_prompt
from rstar.protocols import FinishReason, PolicyBackend, ProposeRequest, SamplingConfig
from rstar.sandbox import SandboxConfig, SandboxPool
from rstar.search import SearchResult, SearchTask, search_trees
from rstar.steps import STEP_STOPS
from tests.rstar.backends.contract import PolicyContract, Served, serve
from tests.rstar.backends.tiny_models import save_model, save_vllm_model
from tests.rstar.backends.vllm_server import BASE, STARTS_TIMEOUT_S, VLLMServer
from tests.rstar.fakes import TextJudge
from tests.rstar.worlds import new_tree

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(4 * STARTS_TIMEOUT_S),
    pytest.mark.filterwarnings("ignore:sandbox"),
]

PROBLEMS = [
    *generate(Split.EVAL, Level.EASY, 6, seed=0),
    *generate(Split.EVAL, Level.MEDIUM, 3, seed=0),
]
SEARCH = SearchConfig(num_rollouts=3, num_candidates=3, sampling=SamplingConfig(max_step_tokens=96))
CHAT = PromptFormat(name="chat", chat_template=True, question_template="{question}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    server = VLLMServer(tmp_path_factory.mktemp("vllm"))
    server.launch()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The contract's model behind a server of its own."""
    folder = tmp_path_factory.mktemp("contract")
    model = save_vllm_model(folder / "model")
    server = VLLMServer(folder, model=model, max_model_len=256)
    server.launch()
    try:
        server.wait()
        config = build(OpenAIConfig, {"base_url": server.url})
        with serve(OpenAIPolicy(model, config), model) as served:
            yield served
    finally:
        server.kill()


class TestContract(PolicyContract):
    """Of every policy."""


def connect(server: VLLMServer, **settings: Any) -> OpenAIPolicy:
    return OpenAIPolicy(BASE, build(OpenAIConfig, {"base_url": server.url, **settings}))


def request(policy: PolicyBackend, number: int = 0, *, num_candidates: int = 4) -> ProposeRequest:
    return ProposeRequest(
        prefix_ids=tuple(policy.encode(render_prompt(BARE, PROBLEMS[number].question))),
        num_candidates=num_candidates,
        seed=number,
        sampling=SamplingConfig(max_step_tokens=64),
        stop=STEP_STOPS,
    )


async def search(
    policy: PolicyBackend, config: SearchConfig, *, format: PromptFormat = BARE
) -> dict[str, SearchResult]:
    async with SandboxPool(SandboxConfig(num_shards=1)) as sandbox:
        tasks = [
            SearchTask(tree=new_tree(p.question, problem_id=p.id), judge=TextJudge(p.answer))
            for p in PROBLEMS
        ]
        engines = Engines(policy=policy, sandbox=sandbox)
        found = search_trees(tasks, engines, config, format=format, max_trees_in_flight=16)
        return {result.tree.name: result async for result in found}


async def searched(
    policy: OpenAIPolicy | TransformersPolicy, config: SearchConfig, **more: Any
) -> dict[str, SearchResult]:
    try:
        return await search(policy, config, **more)
    finally:
        await policy.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(STARTS_TIMEOUT_S):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.01)


def steps(results: dict[str, SearchResult]) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {name: [(n.text, n.token_ids) for n in r.tree.nodes] for name, r in results.items()}


def test_greedy_trees_are_those_of_the_transformers_back_end(server: VLLMServer) -> None:
    config = greedy(SEARCH)
    served = asyncio.run(searched(connect(server), config))
    local = asyncio.run(searched(TransformersPolicy(BASE, num_replicas=0, dtype="float32"), config))
    assert steps(served) == steps(local)
    assert sum(result.tree.solved for result in served.values()) >= 3
    for name, result in served.items():
        for node, same in zip(result.tree.nodes[1:], local[name].tree.nodes[1:], strict=True):
            assert node.mean_logprob == pytest.approx(same.mean_logprob, abs=1e-3)


def test_a_chat_that_goes_on_from_the_steps_so_far_gives_the_greedy_trees_of_the_completions_api(
    server: VLLMServer,
) -> None:
    config = greedy(SEARCH)
    by_chat = asyncio.run(searched(connect(server, api="chat"), config, format=CHAT))
    plain = asyncio.run(searched(connect(server), config))
    texts = [
        {name: [text for text, _ in nodes] for name, nodes in steps(r).items()} for r in (by_chat, plain)
    ]
    assert texts[0] == texts[1]


def test_equal_requests_get_equal_candidates_and_sampled_ids_are_kept(server: VLLMServer) -> None:
    async def run() -> None:
        policy = connect(server)
        first = await asyncio.gather(*(policy.propose(request(policy, i)) for i in range(len(PROBLEMS))))
        again = [await policy.propose(request(policy, i)) for i in range(len(PROBLEMS))]
        for one, other in zip(first, again, strict=True):
            assert len(one) == 4
            assert [c.token_ids for c in one] == [c.token_ids for c in other]
            for candidate in one:
                assert len(candidate.token_ids) == len(candidate.logprobs)
                assert max(candidate.logprobs) <= 0
                if candidate.finish_reason is FinishReason.STOP:
                    assert candidate.text.endswith((*STEP_STOPS, "<|endoftext|>"))
        assert policy.stats().cached_tokens > 0
        await policy.aclose()

    asyncio.run(run())


def test_a_prefix_longer_than_the_servers_context_and_one_that_fills_it(server: VLLMServer) -> None:
    async def run() -> None:
        policy = connect(server)
        await policy.start()
        assert policy.max_context_tokens == 512
        full = replace(request(policy), prefix_ids=(11,) * 512)
        assert [c.finish_reason for c in await policy.propose(full)] == [FinishReason.LENGTH] * 4
        nearly = replace(full, prefix_ids=(11,) * 510)
        assert {len(c.token_ids) for c in await policy.propose(nearly)} <= {1, 2}
        await policy.aclose()

    asyncio.run(run())


def test_a_wrong_model_name_context_or_tokenizer_is_one_line(server: VLLMServer, tmp_path: Path) -> None:
    async def start(folder: Path, **settings: Any) -> None:
        policy = OpenAIPolicy(folder, build(OpenAIConfig, {"base_url": server.url, **settings}))
        try:
            await policy.start()
        finally:
            await policy.aclose()

    with pytest.raises(ConfigError, match=r"serves no model 'rstar'; did you mean rstar-base\?"):
        asyncio.run(start(BASE, model="rstar"))
    with pytest.raises(ConfigError, match=r"max_context_tokens is 4096, but .* serves 512"):
        asyncio.run(start(BASE, max_context_tokens=4096))
    with pytest.raises(ConfigError, match="has another tokenizer than the folder"):
        asyncio.run(start(save_model(tmp_path / "other", "qwen2")))


def test_the_server_stops_computing_what_was_cancelled(server: VLLMServer) -> None:
    async def run() -> None:
        policy = connect(server)
        endless = replace(
            request(policy),
            num_candidates=16,
            stop=("<never>",),
            sampling=SamplingConfig(max_step_tokens=480),
        )
        asked = [asyncio.create_task(policy.propose(replace(endless, seed=i))) for i in range(4)]
        await until(lambda: server.metric("vllm:num_requests_running") > 0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await until(lambda: server.metric("vllm:num_requests_running") == 0)
        assert len(await policy.propose(request(policy))) == 4
        await policy.aclose()

    asyncio.run(run())


def test_a_server_that_is_killed_and_started_again_in_mid_search_changes_no_tree(server: VLLMServer) -> None:
    async def run() -> dict[str, SearchResult]:
        policy = connect(server, outage_s=2 * STARTS_TIMEOUT_S, max_concurrency=4)
        searching = asyncio.create_task(search(policy, SEARCH))
        try:
            await until(lambda: policy.stats().num_requests >= 10)
            server.kill()
            await until(lambda: policy.num_retries >= 4)
            assert not searching.done()
            server.launch()
            return await searching
        finally:
            searching.cancel()
            await policy.aclose()

    undisturbed = asyncio.run(searched(connect(server), SEARCH))
    disturbed = asyncio.run(run())
    assert not any(result.fault for result in disturbed.values())
    assert steps(disturbed) == steps(undisturbed)
