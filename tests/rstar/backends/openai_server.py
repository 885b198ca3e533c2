"""A small server of OpenAI's API over a function in place of a model, which fails in every way that it is told to.

`kind` "vllm" takes token ids and keeps stop texts, "other" takes text and streams. Also runs by itself, as a process to kill:
`python -m tests.rstar.backends.openai_server PORT`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from rstar.backends.scripted import ChainWorld
from rstar.backends.tokenizer import ModelTokenizer
from rstar.seeds import rng

FOLDER = Path(__file__).parents[3] / "rounds" / "base"
"""A tokenizer that loses nothing."""
WORLD = ChainWorld(num_operations=2, slip=0.3, crash=0.15, nonsense=0.05)
PIECE_CHARS = 5
AFTERWARDS = "\nand the model goes on"
"""What a model writes behind a stop text that its server was not told of."""

Respond = Callable[[str, random.Random], str]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers in place of the server."""


def error(status: int, message: str, **headers: str) -> Fault:
    """An error reply as OpenAI's API has it."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": message, "code": status}}, status=status, headers=headers
        )

    return fault


def says(body: str, *, status: int = 200, content_type: str = "text/plain") -> Fault:
    """A reply that is not of the API."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body, status=status, content_type=content_type)

    return fault


async def drops(request: web.Request) -> web.StreamResponse:
    """Closes the connection without a reply."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def hangs(request: web.Request) -> web.StreamResponse:
    """Never answers."""
    await asyncio.sleep(3600)
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Begins a stream and closes the connection."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"choices": [{"index": 0, "text": "# St"}]}\n\n')
    assert request.transport is not None
    request.transport.close()
    return response


@dataclass(kw_only=True)
class ProtocolServer:
    """The server's behaviour and what it saw. `faults` answer the next requests for text, one each."""

    respond: Respond = WORLD.respond
    kind: str = "other"
    models: tuple[str, ...] = ("chain",)
    key: str | None = None
    context: int | None = None
    takes_n: bool = True
    logprobs: bool = True
    delay_s: float = 0.0
    faults: deque[Fault] = field(default_factory=deque)
    models_fault: Fault | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Monotonic arrival of each request for text."""
    in_flight: int = 0
    most_in_flight: int = 0
    abandoned: int = 0
    """Requests whose client closed the connection before the reply was complete."""

    def __post_init__(self) -> None:
        self._tokenizer = ModelTokenizer(FOLDER)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/completions", self._generate)
        application.router.add_post("/v1/chat/completions", self._generate)
        if self.kind == "vllm":
            application.router.add_post("/tokenize", self._tokenize)
        return application

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.models_fault is not None:
            return await self.models_fault(request)
        if refusal := self._refusal(request):
            return refusal
        listed: list[dict[str, Any]] = [
            {"id": name, "object": "model", "owned_by": self.kind} for name in self.models
        ]
        if self.context is not None:
            listed = [{**model, "max_model_len": self.context} for model in listed]
        return web.json_response({"object": "list", "data": listed})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        return web.json_response({"tokens": self._tokenizer.encode(asked["prompt"])})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._refusal(request):
            return refusal
        asked = await request.json()
        self.requests.append(asked)
        self.times.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.faults:
                return await self.faults.popleft()(request)
            await asyncio.sleep(self.delay_s)
            chat = request.path.endswith("/chat/completions")
            texts = self._texts(asked)
            if asked.get("stream"):
                return await self._stream(request, asked, texts, chat=chat)
            return web.json_response(
                {"choices": [self._choice(asked, i, text, chat=chat) for i, text in enumerate(texts)]}
            )
        except (asyncio.CancelledError, ConnectionResetError):
            self.abandoned += 1
            raise
        finally:
            self.in_flight -= 1

    def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)

    def _texts(self, asked: dict[str, Any]) -> list[str]:
        prompt: Any = asked.get("prompt")
        if "messages" in asked:
            prompt = "\n".join(message["content"] for message in asked["messages"])
        elif not isinstance(prompt, str):
            prompt = self._tokenizer.decode(prompt)
        count = asked.get("n", 1) if self.takes_n else 1
        return [self.respond(prompt, rng(asked.get("seed", 0), i)) for i in range(count)]

    def _choice(self, asked: dict[str, Any], index: int, text: str, *, chat: bool) -> dict[str, Any]:
        ids = self._tokenizer.encode(text)
        reason = "stop" if len(ids) <= asked["max_tokens"] else "length"
        ids = ids[: asked["max_tokens"]]
        content = self._tokenizer.decode(ids)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason}
        choice |= {"message": {"role": "assistant", "content": content}} if chat else {"text": content}
        if asked.get("return_token_ids"):
            choice["token_ids"] = ids
        if asked.get("logprobs") and self.logprobs:
            logprobs = [-0.25] * len(ids)
            by_api = {"content": [{"logprob": x} for x in logprobs]} if chat else {"token_logprobs": logprobs}
            choice["logprobs"] = by_api
        return choice

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], texts: list[str], *, chat: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        texts = [text + AFTERWARDS for text in texts]
        for start in range(0, max(map(len, texts)), PIECE_CHARS):
            for index, text in enumerate(texts):
                piece = text[start : start + PIECE_CHARS]
                if not piece:
                    continue
                choice: dict[str, Any] = {"index": index, "finish_reason": None}
                choice |= {"delta": {"content": piece}} if chat else {"text": piece}
                if asked.get("logprobs") and self.logprobs:
                    choice["logprobs"] = (
                        {"content": [{"logprob": -0.5}]} if chat else {"token_logprobs": [-0.5]}
                    )
                await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        for index in range(len(texts)):
            done = {"choices": [{"index": index, "text": "", "delta": {}, "finish_reason": "length"}]}
            await response.write(f"data: {json.dumps(done)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def serving(server: ProtocolServer, port: int = 0) -> AsyncIterator[str]:
    """Serve in this event loop; gives the base address."""
    runner = web.AppRunner(server.application(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def main() -> None:
    """One server in this process, slow enough that requests are in flight when it is killed."""
    web.run_app(
        ProtocolServer(delay_s=0.02).application(), host="127.0.0.1", port=int(sys.argv[1]), print=None
    )


if __name__ == "__main__":
    main()
