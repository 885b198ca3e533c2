"""Who may search: so many at once, so many waiting in the order in which they came, and nobody beyond that."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rstar.server.config import ServerConfig
from rstar.server.errors import SERVER, ApiError

_SMOOTHING = 0.1
"""Weight of the newest search in the mean duration."""
_RETRY_AT_MOST_S = 60


class Admission:
    """Counts searches. Lives in the server's event loop."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._turns = asyncio.Semaphore(config.max_searches)
        self._admitted = 0
        self._mean_s = 1.0
        self.running = 0
        self.closed = False

    @property
    def waiting(self) -> int:
        """Admitted searches whose turn has not come."""
        return self._admitted - self.running

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Places for so many searches. Raises ApiError: 429 if that are too many, 503 if the server is stopping."""
        if self.closed:
            raise ApiError(503, "the server is stopping", kind=SERVER, code="stopping")
        room = self._config.max_searches + self._config.max_waiting - self._admitted
        if count > room:
            raise ApiError(
                429, f"{self.running} searches run and {self.waiting} wait, as many as this server takes; ask again later",
                kind="rate_limit_error", code="too_many_searches", headers={"Retry-After": str(self._retry_after_s())},
            )  # fmt: skip
        self._admitted += count
        try:
            yield
        finally:
            self._admitted -= count

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The turn of one admitted search. Raises ApiError, 503, if it does not come in time."""
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await self._turns.acquire()
        except TimeoutError:
            raise ApiError(
                503, f"the turn of this search did not come in {self._config.max_wait_s:g} s; ask again later",
                kind=SERVER, code="overloaded", headers={"Retry-After": str(self._retry_after_s())},
            ) from None  # fmt: skip
        began = time.monotonic()
        self.running += 1
        try:
            if self.closed:
                raise ApiError(503, "the server is stopping", kind=SERVER, code="stopping")
            yield
        finally:
            self.running -= 1
            self._turns.release()
            self._mean_s += _SMOOTHING * (time.monotonic() - began - self._mean_s)

    def _retry_after_s(self) -> int:
        """About when a place is free: a whole number of seconds."""
        seconds = self._mean_s * max(1, self.waiting) / self._config.max_searches
        return min(max(1, math.ceil(seconds)), _RETRY_AT_MOST_S)
