"""Policies behind OpenAI-compatible servers: what is sent, what is made of replies, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rstar.backends.openai import client
from rstar.backends.openai.chat import read_chat, undress, write_chat
from rstar.backends.openai.config import OpenAIConfig
from rstar.backends.openai.failures import error_message, retry_after_s
from rstar.backends.openai.limits import RateLimit
from rstar.backends.openai.policy import OpenAIPolicy
from rstar.config import SearchConfig, build
from rstar.errors import BackendError, ConfigError
from rstar.prompts import BARE, PromptFormat, render_prompt
from rstar.protocols import Candidate, FinishReason, PolicyBackend, ProposeRequest, SamplingConfig
from rstar.search import SearchResult, SearchTask, search_trees
from rstar.steps import END_OF_STEP, STEP_STOPS
from rstar.store import Store
from tests.rstar.backends.contract import check_closed, check_requests_do_not_touch_each_other
from tests.rstar.backends.openai_server import (
    FOLDER,
    WORLD,
    Fault,
    ProtocolServer,
    breaks_off,
    drops,
    error,
    hangs,
    says,
    serving,
)
from tests.rstar.fakes import TextJudge
from tests.rstar.worlds import engines, new_tree

QUESTION = "Start with 7. Then add 3. Then times 4."
SEARCH = SearchConfig(num_rollouts=4, num_candidates=3)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(client, "LONGEST_DELAY_S", 0.1)


def request(
    policy: OpenAIPolicy, *, temperature: float = 1.0, num_candidates: int = 3, **changes: Any
) -> ProposeRequest:
    return ProposeRequest(
        prefix_ids=tuple(policy.encode(render_prompt(BARE, QUESTION))),
        num_candidates=num_candidates,
        seed=7,
        sampling=SamplingConfig(temperature=temperature),
        stop=STEP_STOPS,
        **changes,
    )


@contextlib.asynccontextmanager
async def policy_at(url: str, **settings: Any) -> AsyncIterator[OpenAIPolicy]:
    policy = OpenAIPolicy(FOLDER, build(OpenAIConfig, {"base_url": url, **settings}))
    try:
        yield policy
    finally:
        await policy.aclose()


def ask(
    server: ProtocolServer, *, temperature: float = 1.0, num_candidates: int = 3, **settings: Any
) -> list[Candidate]:
    """The candidates of one request to a server that lives as long."""

    async def run() -> list[Candidate]:
        async with serving(server) as url, policy_at(url, **settings) as policy:
            return await policy.propose(
                request(policy, temperature=temperature, num_candidates=num_candidates)
            )

    return asyncio.run(run())


def any_steps(prefix: str, chance: random.Random) -> str:
    """Steps that depend on everything they may depend on."""
    return f"x = {chance.randrange(10**6)}\n{END_OF_STEP}"


async def search(
    policy: OpenAIPolicy, *, count: int = 6, format: PromptFormat = BARE
) -> dict[str, SearchResult]:
    tasks = [
        SearchTask(tree=new_tree(problem.question, problem_id=problem.id), judge=TextJudge(problem.answer))
        for problem in WORLD.problems(count)
    ]
    found = search_trees(tasks, engines(policy), SEARCH, format=format, max_trees_in_flight=8)
    return {result.tree.name: result async for result in found}


# --------------------------------------------------------------------------------------------- what is sent and made of it


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_candidates_are_steps_with_their_stop_text_one_logprob_per_token_and_the_same_again(
    kind: str,
) -> None:
    found = ask(ProtocolServer(kind=kind))
    assert found == ask(ProtocolServer(kind=kind))
    assert len(found) == 3
    for candidate in found:
        assert candidate.text.endswith(STEP_STOPS)
        assert candidate.finish_reason is FinishReason.STOP
        assert len(candidate.logprobs) == len(candidate.token_ids) > 0
        assert set(candidate.logprobs) == {-0.25 if kind == "vllm" else -0.5}


def test_a_server_with_token_ids_gets_them_and_a_seed_and_stop_texts_and_no_settings_of_the_model_apply() -> (
    None
):
    server = ProtocolServer(kind="vllm")
    ask(server)
    (sent,) = server.requests
    assert all(isinstance(token, int) for token in sent["prompt"])
    assert sent["stop"] == list(STEP_STOPS)
    assert (sent["n"], sent["logprobs"], sent["top_k"], sent["repetition_penalty"]) == (3, 1, 0, 1.0)
    assert sent["include_stop_str_in_output"]
    assert sent["return_token_ids"]
    assert not sent["skip_special_tokens"]
    assert 0 <= sent["seed"] < 1 << 31


def test_a_server_that_would_cut_stop_texts_off_is_not_told_of_them_and_left_when_all_have_come() -> None:
    server = ProtocolServer()
    ask(server)
    (sent,) = server.requests
    assert "stop" not in sent
    assert sent["stream"]
    assert isinstance(sent["prompt"], str)
    assert "top_k" not in sent


def test_greedy_asks_for_one_completion_and_gives_it_as_every_candidate() -> None:
    server = ProtocolServer(kind="vllm")
    found = ask(server, temperature=0.0)
    assert found == [found[0]] * 3
    assert "n" not in server.requests[0]


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_a_server_that_ignores_n_is_asked_one_by_one_with_seeds_of_their_own(kind: str) -> None:
    server = ProtocolServer(kind=kind, takes_n=False)
    found = ask(server)
    assert len(found) == 3
    assert len({sent["seed"] for sent in server.requests}) == 3
    limited = ask(ProtocolServer(kind=kind), max_candidates_per_request=1)
    assert limited == found


def test_without_logprobs_from_the_server_or_without_asking_all_are_zero() -> None:
    assert {x for c in ask(ProtocolServer(logprobs=False)) for x in c.logprobs} == {0.0}
    server = ProtocolServer()
    assert {x for c in ask(server, logprobs=False) for x in c.logprobs} == {0.0}
    assert "logprobs" not in server.requests[0]


def test_seeds_can_be_left_out() -> None:
    server = ProtocolServer()
    ask(server, seeds=False)
    assert "seed" not in server.requests[0]


def test_a_completion_without_stop_text_ends_where_the_server_says_and_why() -> None:
    (cut,) = ask(ProtocolServer(respond=lambda prefix, chance: "x" * 40), num_candidates=1)
    assert cut.finish_reason is FinishReason.LENGTH
    assert cut.text.startswith("x" * 40)


def test_a_prefix_that_fills_the_context_gets_empty_candidates_unasked() -> None:
    async def run() -> None:
        server = ProtocolServer(context=64)
        async with serving(server) as url, policy_at(url) as policy:
            await policy.start()
            assert policy.max_context_tokens == 64
            full = replace(request(policy), prefix_ids=tuple(range(11, 75)))
            for candidate in await policy.propose(full):
                assert candidate == Candidate(
                    text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH
                )
            nearly = replace(full, prefix_ids=tuple(range(11, 71)))
            await policy.propose(nearly)
            assert server.requests[0]["max_tokens"] == 4
            assert len(server.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_a_search_over_a_server_is_the_same_whatever_its_concurrency(kind: str) -> None:
    async def run(**settings: Any) -> tuple[dict[str, SearchResult], ProtocolServer]:
        server = ProtocolServer(kind=kind, delay_s=0.002)
        async with serving(server) as url, policy_at(url, **settings) as policy:
            assert isinstance(policy, PolicyBackend)
            return await search(policy), server

    wide, _ = asyncio.run(run())
    narrow, server = asyncio.run(run(max_concurrency=2))
    assert server.most_in_flight <= 2
    assert {name: result.tree for name, result in wide.items()} == {n: r.tree for n, r in narrow.items()}
    assert not any(result.fault for result in wide.values())
    assert any(result.tree.solved for result in wide.values())


# ------------------------------------------------------------------------------------------------------------------ chats

CHAT = PromptFormat(
    name="chat", chat_template=True, instructions="Use code.", question_template="{question}\n"
)


def unquoted(prefix: str) -> str:
    """What a `quote` prompt would be as a prefix of the chain world."""
    question, _, rest = prefix.partition("The solution so far:\n\n")
    return question + rest.partition("\n\nWrite only the next step")[0]


@pytest.mark.parametrize("continuation", ["prefill", "quote"])
@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_a_chat_goes_on_from_the_steps_so_far_and_fences_around_steps_are_taken_off(
    continuation: str, kind: str
) -> None:
    def respond(prefix: str, chance: Any) -> str:
        step = WORLD.respond(unquoted(prefix), chance)
        return step if "<answer>" in step or chance.random() < 0.5 else f"```python\n{step}"

    async def run() -> tuple[dict[str, SearchResult], ProtocolServer]:
        server = ProtocolServer(kind=kind, respond=respond)
        async with serving(server) as url, policy_at(url, api="chat", continuation=continuation) as policy:
            return await search(policy, format=CHAT), server

    found, server = asyncio.run(run())
    assert not any(result.fault for result in found.values())
    assert any(result.tree.solved for result in found.values())
    assert not any("```" in node.text for result in found.values() for node in result.tree.nodes)
    roles = [[message["role"] for message in sent["messages"]] for sent in server.requests]
    prefilled = continuation == "prefill"
    assert all(r == ["system", "user", *(["assistant"] if prefilled else [])] for r in roles)
    assert all(
        ("continue_final_message" in sent) == (prefilled and kind == "vllm") for sent in server.requests
    )


def test_a_chat_is_written_as_a_prompt_and_read_back_whatever_is_in_it() -> None:
    messages = [
        {"role": "system", "content": "<<chat 3 4>>\n"},
        {"role": "user", "content": "1 + 1?\n<code>"},
    ]
    chat = read_chat(write_chat(messages) + "<code>\nx = 1\n")
    assert (chat.system, chat.user, chat.answer) == ("<<chat 3 4>>\n", "1 + 1?\n<code>", "<code>\nx = 1\n")
    assert chat.prefilled() == [*messages, {"role": "assistant", "content": "<code>\nx = 1\n"}]
    assert read_chat(write_chat(messages[1:])).system == ""


def test_a_prompt_that_is_no_chat_is_refused_for_the_chat_api() -> None:
    with pytest.raises(ConfigError, match="use a chat format such as few-shot-chat"):
        ask(ProtocolServer(), api="chat")


@pytest.mark.parametrize(
    ("wrote", "step"),
    [
        ("# Step 1\nx = 1\n<end_of_step>", "# Step 1\nx = 1\n<end_of_step>"),
        ("\n\n# Step 1\nx = 1\n<end_of_step>", "# Step 1\nx = 1\n<end_of_step>"),
        ("```python\n# Step 1\nx = 1\n<end_of_step>", "# Step 1\nx = 1\n<end_of_step>"),
        ("```python\n# Step 1\nx = 1\n```\n<end_of_step>", "# Step 1\nx = 1\n<end_of_step>"),
        ("<code>\n# Step 1\nx = 1\n<end_of_step>", "# Step 1\nx = 1\n<end_of_step>"),
        ("<code>\nx = 0\n<end_of_step>\n# Step 2\nx = 1\n<end_of_step>", "# Step 2\nx = 1\n<end_of_step>"),
        ("```\n<code>\nprint(x)\n<end_of_code>", "print(x)\n<end_of_code>"),
        (" <answer>\\boxed{1}<end_of_answer>", "<answer>\\boxed{1}<end_of_answer>"),
        ("x = '```'\n<end_of_step>", "x = '```'\n<end_of_step>"),
    ],
)
def test_what_chat_models_wrap_steps_in_is_taken_off_and_nothing_else(wrote: str, step: str) -> None:
    assert undress(wrote, "<code>\nx = 0\n<end_of_step>\n") == step


# ------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["vllm", "other"])
@pytest.mark.parametrize(
    "fault",
    [
        error(500, "internal"),
        error(503, "starting"),
        error(429, "slow down"),
        drops,
        breaks_off,
        says("<html>busy</html>"),
        says('{"choices": [{"index": 0}]}'),
        says('{"choices": "none"}'),
        says('data: {"error": {"message": "out of memory"}}\n\n', content_type="text/event-stream"),
        says("data: [DONE]\n\n", content_type="text/event-stream"),
    ],
    ids=[
        "500",
        "503",
        "429",
        "dropped",
        "broken-off",
        "html",
        "no-text",
        "no-list",
        "error-event",
        "empty-stream",
    ],
)
def test_a_request_that_was_not_answered_is_sent_again_and_answered_alike(kind: str, fault: Fault) -> None:
    server = ProtocolServer(kind=kind, faults=deque([fault, fault]))
    assert ask(server) == ask(ProtocolServer(kind=kind))
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


def test_a_request_that_takes_too_long_is_sent_again() -> None:
    server = ProtocolServer(faults=deque([hangs]))
    assert len(ask(server, timeout_s=0.3)) == 3
    assert len(server.requests) == 2


def test_a_failing_request_is_given_up_after_its_retries_and_a_busy_server_after_the_outage() -> None:
    server = ProtocolServer(faults=deque([error(500, "no memory")] * 9))
    with pytest.raises(BackendError, match=r"answers 500: no memory; given up after 2 retries"):
        ask(server, max_retries=2)
    assert len(server.requests) == 3
    with pytest.raises(BackendError, match=r"answers 503: starting; given up after 0.1 s of waiting"):
        ask(ProtocolServer(faults=deque([error(503, "starting")] * 999)), outage_s=0.1)


def test_nobody_sends_before_the_time_that_a_server_asks_to_wait() -> None:
    async def run() -> list[float]:
        busy = error(429, "too many requests", **{"Retry-After": "0.5"})
        server = ProtocolServer(kind="vllm", faults=deque([busy]))
        async with serving(server) as url, policy_at(url) as policy:
            first = asyncio.create_task(policy.propose(request(policy)))
            await until(lambda: bool(server.times))
            await asyncio.sleep(0.05)
            await asyncio.gather(first, policy.propose(request(policy)))
        return server.times

    refused, *later = asyncio.run(run())
    assert len(later) == 2
    assert min(later) >= refused + 0.5


@pytest.mark.parametrize(
    ("fault", "settings", "message"),
    [
        (error(401, "bad key"), {}, "answers 401: bad key; name the environment variable"),
        (error(429, "insufficient_quota"), {}, "the account's quota is used up"),
        (error(400, "Unsupported parameter: 'logprobs'"), {}, "set engine.openai.logprobs=false"),
        (error(400, "'seed' is not supported"), {}, "set engine.openai.seeds=false"),
        (error(422, "n must be 1"), {}, "set engine.openai.max_candidates_per_request=1"),
        (error(404, "Not Found"), {}, "needs engine.openai.api=chat"),
    ],
)  # fmt: skip
def test_what_no_retry_mends_is_one_line_that_says_what_to_set(
    fault: Fault, settings: dict[str, Any], message: str
) -> None:
    server = ProtocolServer(faults=deque([fault]))
    with pytest.raises(ConfigError, match=message) as raised:
        ask(server, **settings)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_bad_request_of_another_kind_fails_that_request_alone() -> None:
    with pytest.raises(BackendError, match="answers 400: content refused"):
        ask(ProtocolServer(faults=deque([error(400, "content refused")])))


def test_a_context_overflow_that_the_server_finds_is_data_where_tokens_are_estimated_and_else_a_wrong_setting() -> (
    None
):
    overflow = error(400, "This model's maximum context length is 64 tokens. However, you requested 90")
    found = ask(ProtocolServer(faults=deque([overflow])))
    assert [(c.text, c.finish_reason) for c in found] == [("", FinishReason.LENGTH)] * 3
    with pytest.raises(
        ConfigError, match=r"maximum context length is 64.*set engine.openai.max_context_tokens"
    ):
        ask(ProtocolServer(kind="vllm", faults=deque([overflow])))


def starts(server: ProtocolServer | None, *, url: str = "", folder: Path = FOLDER, **settings: Any) -> None:
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            at = await stack.enter_async_context(serving(server)) if server is not None else url
            policy = OpenAIPolicy(folder, build(OpenAIConfig, {"base_url": at, **settings}))
            stack.push_async_callback(policy.aclose)
            await policy.start()

    asyncio.run(run())


def test_a_model_that_the_server_does_not_list_is_refused_with_those_that_it_does() -> None:
    starts(ProtocolServer(models=("a", "b")), model="b")
    with pytest.raises(ConfigError, match=r"serves no model 'chian'; did you mean chain\?"):
        starts(ProtocolServer(models=("chain", "other")), model="chian")
    with pytest.raises(ConfigError, match="serves no model 'gpt'; it serves chain, tree"):
        starts(ProtocolServer(models=("chain", "tree")), model="gpt")
    with pytest.raises(ConfigError, match=r"serves a, b; choose one with engine\.openai\.model"):
        starts(ProtocolServer(models=("a", "b")))


def test_a_key_comes_from_the_environment_and_a_missing_or_wrong_one_is_said_without_showing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ProtocolServer(key="sesame")
    with pytest.raises(ConfigError, match=r"the environment variable RSTAR_TEST_KEY, .* is not set"):
        starts(server, api_key_env="RSTAR_TEST_KEY")
    monkeypatch.setenv("RSTAR_TEST_KEY", "sesame")
    starts(server, api_key_env="RSTAR_TEST_KEY")
    assert len(ask(server, api_key_env="RSTAR_TEST_KEY")) == 3
    monkeypatch.setenv("RSTAR_TEST_KEY", "wrong-one")
    with pytest.raises(ConfigError, match="RSTAR_TEST_KEY is not accepted") as raised:
        starts(server, api_key_env="RSTAR_TEST_KEY")
    assert "wrong-one" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"401.*name the environment variable"):
        starts(server)


def test_an_address_where_no_openai_server_is_gets_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ConfigError, match=r"no server answers at .*is the server running"):
            starts(None, url=nobody)
    with pytest.raises(ConfigError, match="404"):
        starts(ProtocolServer(models_fault=error(404, "Not Found")))
    with pytest.raises(ConfigError, match="no JSON: '<html>"):
        starts(ProtocolServer(models_fault=says("<html>hello</html>")))
    with pytest.raises(ConfigError, match="not with a list of models"):
        starts(ProtocolServer(models_fault=says('{"status": "ok"}')))


def test_a_tokenizer_that_is_not_the_servers_is_refused_where_token_ids_are_sent(tmp_path: Path) -> None:
    from tests.rstar.backends.tiny_models import save_model

    other = save_model(tmp_path / "other", "qwen2")
    with pytest.raises(ConfigError, match="has another tokenizer than the folder"):
        starts(ProtocolServer(kind="vllm"), folder=other)


def test_a_context_longer_than_the_servers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_context_tokens is 300, but .* serves 200"):
        starts(ProtocolServer(kind="vllm", context=200), max_context_tokens=300)


def test_a_cancelled_request_closes_its_connection_so_that_the_server_stops() -> None:
    async def run() -> None:
        server = ProtocolServer(kind="vllm", delay_s=60)
        async with serving(server) as url, policy_at(url) as policy:
            asked = asyncio.create_task(policy.propose(request(policy)))
            await until(lambda: server.in_flight == 1)
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
            await until(lambda: server.abandoned == 1)
            assert server.in_flight == 0

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_closing_fails_what_is_waiting_and_what_comes_later(kind: str) -> None:
    async def run() -> None:
        async with serving(ProtocolServer(kind=kind, delay_s=60)) as url, policy_at(url) as policy:
            await check_closed(policy)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_requests_do_not_touch_each_other(kind: str) -> None:
    async def run() -> None:
        async with serving(ProtocolServer(kind=kind, respond=any_steps)) as url, policy_at(url) as policy:
            await check_requests_do_not_touch_each_other(policy)

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another task or process
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------------------- a server that comes back


async def launch(port: int) -> subprocess.Popen[bytes]:
    """A server process of its own; returns once it listens."""
    command = [sys.executable, "-m", "tests.rstar.backends.openai_server", str(port)]
    process = subprocess.Popen(command)  # noqa: ASYNC220 - returns at once

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await until(listens)
    return process


def test_a_server_that_is_killed_and_started_again_in_mid_search_changes_no_tree() -> None:
    async def run() -> tuple[dict[str, SearchResult], int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = await launch(port)
        try:
            async with policy_at(f"http://127.0.0.1:{port}/v1", max_concurrency=4) as policy:
                searching = asyncio.create_task(search(policy))
                await until(lambda: policy.stats().num_requests >= 5)
                server.kill()
                server.wait()
                await until(lambda: policy.num_retries >= 4)
                assert not searching.done()
                server = await launch(port)
                return await searching, policy.num_retries
        finally:
            server.kill()
            server.wait()

    async def undisturbed() -> dict[str, SearchResult]:
        async with serving(ProtocolServer()) as url, policy_at(url) as policy:
            return await search(policy)

    found, num_retries = asyncio.run(run())
    assert num_retries > 0
    assert not any(result.fault for result in found.values())
    expected = asyncio.run(undisturbed())
    assert {name: r.tree for name, r in found.items()} == {name: r.tree for name, r in expected.items()}


def test_a_search_from_the_command_line_over_a_server_logs_what_it_does(tmp_path: Path) -> None:
    problems, log = tmp_path / "problems.jsonl", tmp_path / "log.jsonl"
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in WORLD.problems(4)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def run() -> tuple[int, bytes]:
        async with serving(ProtocolServer()) as url:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rounds.cli", "search", str(problems), "--model", str(FOLDER),
                "--store", str(tmp_path / "store"), "--log", str(log), "--metrics", "0",
                *(part for setting in (
                    "engine.backend=openai", f"engine.openai.base_url={url}", "search.num_rollouts=2",
                    "search.num_candidates=3", "sandbox.num_shards=1", "grading.num_workers=1",
                ) for part in ("--set", setting)),
                stderr=subprocess.PIPE,
            )  # fmt: skip
            _, said = await process.communicate()
            assert process.returncode is not None
            return process.returncode, said

    status, said = asyncio.run(run())
    assert status == 0, said
    assert b"metrics: http://127.0.0.1:" in said
    assert len(Store(tmp_path / "store").records()) == 4
    events = [json.loads(line) for line in log.read_text().splitlines()]
    seen = {event["event"]: event for event in events if event["module"] == "rstar.progress"}
    assert seen["search begun"]["trees"] == 4
    assert seen["search ended"]["trees_done"] == 4


# -------------------------------------------------------------------------------------------------------- parts by themselves


def test_a_rate_limit_lets_no_more_through_than_its_rate_after_what_may_be_made_up_for() -> None:
    async def run() -> float:
        limit = RateLimit(per_minute=1200, burst_s=0.1)  # 20 a second, two at once
        began = time.monotonic()
        await asyncio.gather(*(limit.take(1) for _ in range(8)))
        return time.monotonic() - began

    assert asyncio.run(run()) >= 0.3 - 0.01


def test_what_was_reserved_and_not_used_goes_back_into_the_rate_limit() -> None:
    async def run() -> None:
        limit = RateLimit(per_minute=60, burst_s=1)
        await limit.take(1)
        limit.give_back(1)
        async with asyncio.timeout(0.9):
            await limit.take(1)

    asyncio.run(run())


def test_a_token_limit_counts_prompts_and_completions() -> None:
    async def run() -> int:
        server = ProtocolServer(kind="vllm")
        async with serving(server) as url, policy_at(url, tokens_per_minute=60_000) as policy:
            await policy.propose(
                request(policy)
            )  # 3 x 256 and the prompt of 6,000 tokens that may be made up for
            return len(server.requests)

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("-3", 0.0),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": value}) == seconds


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "no such\\n model", "code": 404}}', "no such model"),
        ('{"error": "overloaded", "error_type": "overloaded"}', "overloaded"),
        ('{"message": "too long", "object": "error"}', "too long"),
        ('{"detail": [{"loc": ["n"]}]}', '[{"loc": ["n"]}]'),
        ("<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        ("", "nothing"),
    ],
)
def test_error_replies_of_all_kinds_of_servers_are_read(body: str, message: str) -> None:
    assert error_message(body) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"base_url": "localhost:8000"},
            r"base_url is 'localhost:8000'; it must be an http:// or https:// address",
        ),
        ({"api_key_env": "sk-secret"}, "the name of an environment variable, never the key itself"),
        ({"max_concurrency": 0}, "max_concurrency is 0; it must be at least 1"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0; it must be at least 1, or null"),
        ({"timeout_s": 0}, "timeout_s is 0.0; it must be above 0"),
        ({"api": "responses"}, "api is 'responses'"),
        ({"modle": "x"}, "did you mean model"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build(OpenAIConfig, settings)
    assert "sk-secret" not in str(raised.value)


def test_a_stop_text_over_two_pieces_of_a_stream_is_found() -> None:
    found = ask(ProtocolServer(respond=lambda prefix, chance: f"abc\n{END_OF_STEP}"), num_candidates=2)
    assert [candidate.text for candidate in found] == [f"abc\n{END_OF_STEP}"] * 2
