"""What the server does not do: serve strangers, read endless bodies, take more than it can, search for nobody, forget answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rstar import ConfigError, Solver
from rstar.backends.scripted import BrokenPolicy
from rstar.server.config import ServerConfig
from rstar.server.running import Server, address, listening
from tests.rstar.server.serving import (
    ENDLESS,
    KEY,
    ONE_SHARD,
    WORLD,
    GatedPolicy,
    chat,
    client,
    get,
    metric,
    serving,
    until,
)

QUESTION = WORLD.problems(1)[0].question
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(WORLD.policy(), api_key=KEY, max_body_bytes=2000, max_body_s=0.5) as address:
        yield address


@pytest.mark.parametrize("sent", [None, "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x"])
def test_without_the_key_nothing_but_the_health_is_told(url: str, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        refused = get(url + path, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    refused = httpx2.post(f"{url}/v1/chat/completions", headers=headers, json=chat(QUESTION), timeout=250)
    assert refused.status_code == 401
    assert get(f"{url}/health", headers=headers).json() == {"status": "ready"}


def test_a_browser_is_asked_for_the_key_as_a_password(url: str) -> None:
    refused = get(f"{url}/")
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert get(f"{url}/", auth=("anyone", KEY)).status_code == 200
    assert get(f"{url}/", auth=("anyone", "wrong")).status_code == 401


def test_openais_client_is_let_in_with_the_key_and_told_without(url: str) -> None:
    assert client(url, api_key=KEY).models.retrieve("rstar").id == "rstar"
    with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
        client(url).models.list()


def post(url: str, body: str | bytes, **headers: str) -> httpx2.Response:
    headers = {**JSON, "Authorization": f"Bearer {KEY}", **headers}
    return httpx2.post(f"{url}/v1/chat/completions", content=body, headers=headers, timeout=250)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ("{", 400, "invalid_json", None),
        ("", 400, "invalid_json", None),
        ("[1]", 400, "invalid_json", None),
        ("{}", 400, "missing_required_parameter", "model"),
        (json.dumps(chat("1?", num_rolouts=2)), 400, "unknown_parameter", "num_rolouts"),
        (json.dumps(chat("1?", stop="x")), 400, "unsupported_parameter", "stop"),
        (json.dumps(chat("1?", strategy="beem")), 400, "invalid_value", "strategy"),
        (json.dumps(chat("1?", num_rollouts="2")), 400, "invalid_value", "num_rollouts"),
        (json.dumps(chat("1?", num_rollouts=True)), 400, "invalid_value", "num_rollouts"),
        (json.dumps(chat("1?", messages=[])), 400, "invalid_value", "messages"),
        (json.dumps(chat("1?", messages=[{"role": "user", "content": 3}])), 400, "invalid_value", "messages[0].content"),
        (json.dumps(chat("a\ud800")), 400, "invalid_value", "messages"),
        (json.dumps(chat("1" * 2000)), 413, "body_too_large", None),
    ],
)  # fmt: skip
def test_malformed_requests_get_openais_errors(
    url: str, body: str, status: int, code: str, param: str | None
) -> None:
    refused = post(url, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]


def test_a_body_that_is_no_json_by_its_header_is_not_read(url: str) -> None:
    """So that no page of another site can ask in a visitor's name: a browser asks before it sends JSON."""
    refused = post(url, json.dumps(chat(QUESTION)), **{"Content-Type": "text/plain"})
    assert refused.status_code == 400
    assert "Content-Type: application/json" in refused.json()["error"]["message"]


def test_a_body_of_unknown_length_is_cut_at_the_limit(url: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    headers = {**JSON, "Authorization": f"Bearer {KEY}"}
    refused = httpx2.post(f"{url}/v1/completions", content=endless(), headers=headers, timeout=250)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_does_not_come_is_not_waited_for(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=100) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("GET", "/v1/search", 405)])
def test_what_is_not_there_is_said_in_openais_shape(url: str, method: str, path: str, status: int) -> None:
    refused = httpx2.request(method, url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=250)
    assert refused.status_code == status
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_beyond_those_that_run_and_wait_requests_are_refused_and_those_get_their_answers() -> None:
    policy = GatedPolicy(WORLD)
    with (
        serving(policy, max_searches=2, max_waiting=2) as url,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        waiting = [
            pool.submit(client(url).chat.completions.create, **chat(QUESTION, seed=seed)) for seed in range(4)
        ]
        until(lambda: metric(url, "rstar_server_searches_waiting") == 2)
        assert metric(url, "rstar_server_searches_running") == 2
        with pytest.raises(openai.RateLimitError) as refused:
            client(url).chat.completions.create(**chat(QUESTION))
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert (refused.value.code, refused.value.type) == ("too_many_searches", "rate_limit_error")
        policy.open = True
        assert all(one.result().choices[0].message.content for one in waiting)
        assert client(url).chat.completions.create(**chat(QUESTION)).choices


def test_a_search_whose_turn_does_not_come_is_given_up() -> None:
    policy = GatedPolicy(WORLD)
    with (
        serving(policy, max_searches=1, max_wait_s=0.2) as url,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client(url).chat.completions.create, **chat(QUESTION))
        until(lambda: policy.asked > 0)
        with pytest.raises(openai.InternalServerError) as given_up:
            client(url).chat.completions.create(**chat(QUESTION))
        assert (given_up.value.status_code, given_up.value.code) == (503, "overloaded")
        stream = client(url).chat.completions.create(**chat(QUESTION, stream=True))
        with pytest.raises(openai.APIError, match="the turn of this search did not come"):
            list(stream)
        policy.open = True
        assert first.result().choices


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_ends_its_search(streamed: bool) -> None:
    policy = GatedPolicy(WORLD)
    with serving(policy, search=ENDLESS) as url:

        async def leave() -> None:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ours:
                asking = asyncio.create_task(ours.chat.completions.create(**chat(QUESTION, stream=streamed)))
                while policy.asked == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await asking).close()

        asyncio.run(leave())
        until(lambda: policy.cancelled == 1)
        until(lambda: metric(url, "rstar_server_searches_running") == 0)
        until(lambda: metric(url, "rstar_server_requests_in_flight") == 1)  # this one
        if not streamed:
            assert metric(url, "rstar_server_requests_total", status="499") == 1


def test_a_policy_that_stays_out_of_order_is_the_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar.evaluation.RETRY_DELAYS_S", (0.0,))
    with serving(BrokenPolicy(WORLD.respond, period=1)) as url:
        with pytest.raises(openai.InternalServerError) as failed:
            client(url).chat.completions.create(**chat(QUESTION))
        assert (failed.value.status_code, failed.value.type) == (503, "server_error")
        with pytest.raises(openai.APIError, match="scripted failure"):
            list(client(url).chat.completions.create(**chat(QUESTION, stream=True)))


def test_a_deadline_of_the_request_gives_the_answer_known_by_then() -> None:
    with serving(GatedPolicy(WORLD)) as url:
        found = client(url).chat.completions.create(**chat(QUESTION, extra_body={"seconds": 0.2}))
        assert found.choices[0].finish_reason == "length"
        assert (
            found.choices[0].message.content == "No answer: the search ended before its first step was found."
        )


def test_a_server_that_stops_answers_everybody_with_what_it_knows() -> None:
    policy = GatedPolicy(WORLD)
    with Solver(policy, search=ENDLESS, sandbox=ONE_SHARD) as solver:
        config = ServerConfig(port=0, max_searches=1)
        with listening(config) as listener, concurrent.futures.ThreadPoolExecutor(2) as pool:
            server = Server(solver, config)
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            url = address(listener)
            running = pool.submit(client(url).chat.completions.create, **chat(QUESTION))
            until(lambda: policy.asked > 0)
            waiting = pool.submit(client(url).chat.completions.create, **chat(QUESTION))
            until(lambda: metric(url, "rstar_server_searches_waiting") == 1)
            server.should_exit = True
            choice = running.result().choices[0]
            assert choice.model_extra["rstar"]["stopped_by"] == "interrupted"
            with pytest.raises(openai.InternalServerError, match="the server is stopping"):
                waiting.result()
            thread.join()


def test_a_server_whose_solver_cannot_be_opened_ends_and_says_why() -> None:
    config = ServerConfig(port=0)
    with Solver("no/such/model", sandbox=ONE_SHARD) as solver, listening(config) as listener:
        server = Server(solver, config)
        server.run([listener])
    assert isinstance(server.service.failure, ConfigError)
    assert "no/such/model" in str(server.service.failure)


def test_an_address_that_is_taken_is_named() -> None:
    with (
        listening(ServerConfig(port=0)) as taken,
        pytest.raises(ConfigError, match="cannot listen at"),
    ):
        listening(ServerConfig(port=taken.getsockname()[1]))


def test_metrics_are_read_by_prometheus_and_count_what_was_done() -> None:
    with serving(WORLD.policy()) as url:
        found = client(url).chat.completions.create(**chat(QUESTION))
        get(f"{url}/some/where")
        httpx2.post(f"{url}/v1/search", json={}, timeout=250)
        families = {one.name: one for one in text_string_to_metric_families(get(f"{url}/metrics").text)}
        assert found.usage is not None
        assert metric(url, "rstar_server_tokens_total", kind="sampled") == found.usage.completion_tokens
        assert metric(url, "rstar_server_tokens_total", kind="prompt") == found.usage.prompt_tokens
        cost: dict[str, Any] = found.choices[0].model_extra["rstar"]["cost"]
        assert metric(url, "rstar_server_executions_total") == cost["executions"]
        route = "/v1/chat/completions"
        assert metric(url, "rstar_server_requests_total", route=route, status="200") == 1
        assert metric(url, "rstar_server_requests_total", route="none", status="404") == 1
        assert metric(url, "rstar_server_requests_total", route="/v1/search", status="400") == 1
        assert metric(url, "rstar_server_request_seconds_count", route=route) == 1
    assert families["rstar_server_requests_in_flight"].type == "gauge"
    assert families["rstar_server_request_seconds"].type == "histogram"


def test_only_other_machines_make_an_open_server() -> None:
    assert ServerConfig(host="0.0.0.0").open_to_all
    assert not ServerConfig(host="0.0.0.0", api_key=KEY).open_to_all
    assert not ServerConfig().open_to_all
