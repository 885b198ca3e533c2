"""Requests to one server: at most so many at a time and a minute, sent again while there is hope, errors in one line.

A request that is cancelled closes its connection, which is how servers learn to stop. What this file does not cover: what
requests and replies hold (`dialects`, `replies`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx2

from rstar import logs
from rstar.backends.openai.config import OpenAIConfig
from rstar.backends.openai.failures import Unanswered, refusal
from rstar.backends.openai.limits import Pause, RateLimit
from rstar.errors import BackendError, ConfigError
from rstar.seeds import rng

A = TypeVar("A")
Read = Callable[[httpx2.Response], Awaitable[A]]
"""From a reply, its body not read yet, to what it says. Raises Unanswered if it is none."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 10.0
CONNECT_TIMEOUT_S = 10.0
events = logs.events(__name__)


class Client:
    """Talks to the server of `config`, from one event loop. Raises ConfigError if the key's variable is not set."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.num_retries = 0
        self.in_flight = 0
        """Requests sent and not answered yet."""
        self._url = config.base_url.rstrip("/")
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._pause = Pause()
        self._requests = RateLimit(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens = RateLimit(config.tokens_per_minute) if config.tokens_per_minute else None
        self._away_since: float | None = None
        self._sent = 0
        self._http = httpx2.AsyncClient(
            headers=_authorization(config),
            timeout=httpx2.Timeout(config.timeout_s, connect=min(CONNECT_TIMEOUT_S, config.timeout_s)),
            limits=httpx2.Limits(max_connections=config.max_concurrency, max_keepalive_connections=config.max_concurrency),
        )  # fmt: skip

    async def get(self, path: str) -> Any:
        """The JSON at a path below base_url, asked for once. Raises ConfigError if no OpenAI server gives it."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                return await self._send("GET", self._url + path, None, read_json)
        except TimeoutError:
            raise ConfigError(f"{self._url} does not answer within {self.config.timeout_s:g} s") from None
        except Unanswered as error:
            raise ConfigError(f"{error}; is the server running, and engine.openai.base_url right?") from None

    async def post_at_root(self, path: str, body: Mapping[str, Any]) -> Any | None:
        """The JSON reply of a path that servers have beside the API; None where there is none."""
        try:
            return await self._send("POST", self._url.removesuffix("/v1") + path, body, read_json)
        except (Unanswered, BackendError, ConfigError):
            return None

    async def ask(self, path: str, body: Mapping[str, Any], read: Read[A], *, num_tokens: int) -> A:
        """What `read` makes of the reply. `num_tokens`: prompt and the longest completion, for the rate limit.

        Raises BackendError when there is none in spite of `max_retries`, or for `outage_s`; ConfigError for what no
        retry mends; ContextOverflow.
        """
        async with self._slots:
            self._sent += 1
            chance = rng(self._sent, "retry")
            failures, attempt, first_failure = 0, 0, 0.0
            while True:
                await self._may_send(num_tokens)
                try:
                    async with asyncio.timeout(self.config.timeout_s):
                        self.in_flight += 1
                        answer = await self._send("POST", self._url + path, body, read)
                    self._note_back()
                    return answer
                except TimeoutError:
                    error = Unanswered(
                        f"{self._url} gave no reply within {self.config.timeout_s:g} s", away=False
                    )
                except Unanswered as unanswered:
                    error = unanswered
                finally:
                    self.in_flight -= 1
                now = time.monotonic()
                first_failure = first_failure or now
                failures += not error.away
                if failures > self.config.max_retries:
                    raise BackendError(f"{error}; given up after {self.config.max_retries} retries")
                delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt) * chance.uniform(0.5, 1.0)
                if error.retry_after_s is not None:
                    delay_s = error.retry_after_s
                    self._pause.extend(delay_s)
                if error.away and now - first_failure + delay_s > self.config.outage_s:
                    raise BackendError(f"{error}; given up after {self.config.outage_s:g} s of waiting")
                self._note_failure(error, delay_s)
                attempt += 1
                await asyncio.sleep(delay_s)

    def give_back(self, num_tokens: int) -> None:
        """Of the tokens that a request was let through for, so many were not used."""
        if self._tokens is not None:
            self._tokens.give_back(num_tokens)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _may_send(self, num_tokens: int) -> None:
        await self._pause.over()
        if self._requests is not None:
            await self._requests.take(1)
        if self._tokens is not None:
            await self._tokens.take(num_tokens)

    async def _send(self, method: str, url: str, body: Mapping[str, Any] | None, read: Read[A]) -> A:
        try:
            async with self._http.stream(method, url, json=body) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise refusal(response.status_code, response.headers, text, self.config)
                return await read(response)
        except httpx2.ConnectError as error:
            raise Unanswered(f"no server answers at {self._url}: {_reason(error)}", away=True) from None
        except httpx2.TimeoutException as error:
            away = isinstance(error, httpx2.ConnectTimeout)
            raise Unanswered(f"{self._url} does not answer in time", away=away) from None
        except httpx2.RequestError as error:
            raise Unanswered(f"{self._url} broke off its reply: {_reason(error)}", away=False) from None
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise ConfigError(
                f"engine.openai.base_url {self.config.base_url!r} is no address: {error}"
            ) from None

    def _note_failure(self, error: Unanswered, delay_s: float) -> None:
        """An outage is said once; every other retry by itself."""
        self.num_retries += 1
        if not error.away:
            events.warning("request retried", server=self._url, error=str(error), delay_s=round(delay_s, 2))
        elif self._away_since is None:
            self._away_since = time.monotonic()
            events.warning("server away", server=self._url, error=str(error), waits_s=self.config.outage_s)

    def _note_back(self) -> None:
        if self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            self._away_since = None
            events.info("server back", server=self._url, away_s=round(away_s, 1))


async def read_json(response: httpx2.Response) -> Any:
    """The reply's JSON. Raises Unanswered if it is none."""
    body = await response.aread()
    try:
        return json.loads(body)
    except ValueError:
        start = body[:60].decode(errors="replace")
        raise Unanswered(f"{response.url} answers something that is no JSON: {start!r}", away=False) from None


async def read_stream(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event up to `[DONE]`. Raises Unanswered if the stream breaks off or holds an error."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise Unanswered(
                f"{response.url} streams something that is no JSON: {data[:60]!r}", away=False
            ) from None
        if not isinstance(event, dict) or "error" in event:
            raise Unanswered(f"{response.url} breaks off: {data[:200]}", away=False)
        yield event


def _authorization(config: OpenAIConfig) -> dict[str, str]:
    if config.api_key_env is None:
        return {}
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {config.api_key_env}, which engine.openai.api_key_env names, is not set"
        )
    return {"Authorization": f"Bearer {key}"}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
