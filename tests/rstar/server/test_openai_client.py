"""OpenAI's own client against a real server: what it gets is what the library gives."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rstar import Answer, Solver
from rstar.seeds import derive
from rstar.server.responses import solution
from rstar.steps import boxed
from tests.rstar.server.serving import ONE_SHARD, PERFECT, SMALL, WORLD, chat, client, get, metric, serving

PROBLEMS = WORLD.problems(4)
QUESTION = PROBLEMS[0].question


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(WORLD.policy()) as address:
        yield address


@pytest.fixture(scope="module")
def library() -> Iterator[Solver]:
    with Solver(WORLD.policy(), search=SMALL, sandbox=ONE_SHARD) as solver:
        yield solver


def timeless(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from run to run."""
    cost = {name: value for name, value in answer["cost"].items() if name != "seconds"}
    return {**{name: value for name, value in answer.items() if name != "ignored"}, "cost": cost}


def test_a_chat_completion_is_the_librarys_answer(url: str, library: Solver) -> None:
    found = client(url).chat.completions.create(**chat(QUESTION))
    same: Answer = library.solve(QUESTION)
    (choice,) = found.choices
    assert choice.message.content == solution(same)
    assert boxed(choice.message.content or "") == same.answer
    assert timeless(choice.model_extra["rstar"]) == timeless(same.plain())
    assert (choice.finish_reason, choice.message.role, found.model) == ("stop", "assistant", "rstar")
    usage = found.usage
    assert usage is not None
    assert usage.completion_tokens == same.cost.tokens
    assert usage.prompt_tokens == same.cost.prompt_tokens
    assert usage.total_tokens == usage.completion_tokens + usage.prompt_tokens
    details = usage.completion_tokens_details
    assert details is not None
    assert 0 < (details.reasoning_tokens or 0) < usage.completion_tokens


def test_options_in_extra_body_change_the_search(url: str, library: Solver) -> None:
    options = {"strategy": "majority", "num_rollouts": 5, "num_candidates": 2}
    found = client(url).chat.completions.create(**chat(QUESTION, seed=9, extra_body=options))
    extra = found.choices[0].model_extra["rstar"]
    assert (extra["strategy"], extra["seed"], extra["cost"]["rollouts"]) == ("majority", 9, 5)


def test_a_token_budget_cuts_the_search_short_and_says_so(url: str) -> None:
    found = client(url).chat.completions.create(
        **chat(QUESTION, max_tokens=1, extra_body={"num_rollouts": 50})
    )
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].model_extra["rstar"]["stopped_by"] == "tokens"


def test_several_choices_are_several_searches(url: str, library: Solver) -> None:
    found = client(url).chat.completions.create(**chat(QUESTION, n=3, seed=4))
    seeds = [4, derive(4, "choice", 1), derive(4, "choice", 2)]
    same = [library.solve(QUESTION, seed=seed) for seed in seeds]
    assert [choice.message.content for choice in found.choices] == [solution(one) for one in same]
    assert found.usage is not None
    assert found.usage.completion_tokens == sum(one.cost.tokens for one in same)


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_tells_every_step_and_its_content_is_the_whole_answers(
    url: str, library: Solver, n: int
) -> None:
    stream = client(url).chat.completions.create(
        **chat(QUESTION, n=n, stream=True, stream_options={"include_usage": True})
    )
    *chunks, last = stream
    whole = client(url).chat.completions.create(**chat(QUESTION, n=n))
    assert last.choices == []
    assert last.usage == whole.usage
    for index in range(n):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in mine) == whole.choices[index].message.content
        *_, end = mine
        assert end.finish_reason == "stop"
        expected = timeless(whole.choices[index].model_extra["rstar"])
        assert timeless(end.model_extra["rstar"]) == expected
        steps = [step for one in mine[1:-2] for step in one.model_extra["rstar"]["steps"]]
        assert [step["id"] for step in steps] == list(range(1, len(steps) + 1))
        assert all("reasoning_content" in (one.delta.model_extra or {}) for one in mine[1:-2])
        if index == 0:
            assert len(steps) == len(library.solve(QUESTION).tree.nodes) - 1


def test_completions_answer_every_prompt_whole_and_streamed(url: str, library: Solver) -> None:
    prompts = [problem.question for problem in PROBLEMS[:2]]
    whole = client(url).completions.create(model="rstar", prompt=prompts)
    same = [solution(library.solve(prompt)) for prompt in prompts]
    assert [choice.text for choice in whole.choices] == same
    texts = ["", ""]
    for chunk in client(url).completions.create(model="rstar", prompt=prompts, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == same


def test_the_model_is_listed_and_others_are_not_found(url: str) -> None:
    assert [model.id for model in client(url).models.list()] == ["rstar"]
    assert client(url).models.retrieve("rstar").id == "rstar"
    with pytest.raises(openai.NotFoundError, match="the model 'gpt' does not exist"):
        client(url).models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="this server has 'rstar'") as caught:
        client(url).chat.completions.create(**{**chat(QUESTION), "model": "gpt"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_system_messages_are_accepted_and_named_as_not_read(url: str) -> None:
    messages = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": QUESTION}]
    found = client(url).chat.completions.create(model="rstar", messages=messages)
    assert found.choices[0].model_extra["rstar"]["ignored"] == ["messages[0] (system)"]


def test_many_at_once_none_lost_none_wrong() -> None:
    problems = PERFECT.problems(200)

    async def ask(url: str) -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=250
        ) as ours:

            async def one(question: str, *, stream: bool) -> str:
                if not stream:
                    found = await ours.chat.completions.create(**chat(question))
                    return str(found.choices[0].message.content)
                chunks = await ours.chat.completions.create(**chat(question, stream=True))
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            questions = [problem.question for problem in problems]
            return await asyncio.gather(*(one(q, stream=i % 4 == 0) for i, q in enumerate(questions)))

    with serving(PERFECT.policy(), search=SMALL) as url:
        found = asyncio.run(ask(url))
        assert metric(url, "rstar_server_answers_total", answered="true") == 200
        assert metric(url, "rstar_server_searches_running") == 0
        assert metric(url, "rstar_server_searches_waiting") == 0
    assert [boxed(content) for content in found] == [problem.answer for problem in problems]


def test_plain_curl_gets_an_answer_and_a_stream(url: str) -> None:
    def curl(path: str, body: str) -> str:
        command = ["curl", "-sSN", f"{url}{path}", "-H", "Content-Type: application/json", "-d", body]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    whole = curl(
        "/v1/chat/completions", f'{{"model":"rstar","messages":[{{"role":"user","content":"{QUESTION}"}}]}}'
    )
    assert '"object":"chat.completion"' in whole
    lines = curl("/v1/completions", f'{{"model":"rstar","stream":true,"prompt":"{QUESTION}"}}').splitlines()
    assert all(line.startswith("data: ") for line in lines if line)
    assert lines[-2] == "data: [DONE]"


def test_the_description_names_every_route(url: str) -> None:
    paths = get(f"{url}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/search", "/v1/models", "/health", "/metrics"} <= {
        *paths
    }
