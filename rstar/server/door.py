"""What every request passes before it is read: it is counted, its key checked, its body bounded in size and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rstar.server.config import ServerConfig
from rstar.server.errors import ApiError
from rstar.server.metrics import ServerMetrics

T = TypeVar("T")

FREE = frozenset({"/health"})
"""What needs no key: who watches over servers has none."""
PAGES = "/trees/"
"""What browsers open: they ask for a password where they are told to."""


class Door:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, config: ServerConfig, metrics: ServerMetrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._metrics.request(scope) as request:

            async def note_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    request.status = message["status"]
                await send(message)

            try:
                headers = dict(scope["headers"])
                self._check_key(scope["path"], headers.get(b"authorization", b""))
                self._check_length(headers.get(b"content-length", b""))
            except ApiError as error:
                await error.response()(scope, receive, note_status)
                return
            await self._app(scope, self._bounded(receive), note_status)

    def _check_key(self, path: str, sent: bytes) -> None:
        key = self._config.api_key
        if key is None or path in FREE or hmac.compare_digest(_sent_key(sent), key.encode()):
            return
        what = "wrong" if sent else "missing"
        scheme = 'Basic realm="rstar", charset="UTF-8"' if path == "/" or path.startswith(PAGES) else "Bearer"
        raise ApiError(
            401, f"the API key is {what}; send it as Authorization: Bearer KEY", code="invalid_api_key",
            headers={"WWW-Authenticate": scheme},
        )  # fmt: skip

    def _check_length(self, length: bytes) -> None:
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is larger than {self._config.max_body_bytes} bytes", code="body_too_large"
        )

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` as long as the body is neither too large nor too slow; afterwards as it is."""
        deadline = asyncio.get_running_loop().time() + self._config.max_body_s
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = f"the body did not arrive in {self._config.max_body_s:g} s"
                raise ApiError(408, late, code="body_too_slow") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._config.max_body_bytes:
                raise self._too_large()
            return message

        return bounded


def _sent_key(authorization: bytes) -> bytes:
    """The key in a header: a bearer token, or the password that a browser asked its user for."""
    scheme, _, value = authorization.partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled, and has ended, if the client goes first: then this raises ClientDisconnect."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
