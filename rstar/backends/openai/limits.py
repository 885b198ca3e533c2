"""How fast requests may leave: so many a minute, so many tokens a minute, and not at all while the server says wait."""

from __future__ import annotations

import asyncio
import time


class RateLimit:
    """So many units a minute, taken in order of arrival; what was not used for up to `burst_s` seconds may be made up for."""

    def __init__(self, per_minute: int, *, burst_s: float = 6.0) -> None:
        self._per_s = per_minute / 60
        self._burst_s = burst_s
        self._paid_until = 0.0
        """Monotonic time at which all units taken so far are paid for."""

    async def take(self, units: float) -> None:
        """Wait until `units` may be used."""
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - self._burst_s) + units / self._per_s
        await asyncio.sleep(max(0.0, self._paid_until - now))

    def give_back(self, units: float) -> None:
        """Of what was taken, `units` were not used after all."""
        self._paid_until -= units / self._per_s


class Pause:
    """Nobody sends before a time that only ever moves on: what a server's Retry-After asks for."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """For at least `seconds` from now."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def over(self) -> None:
        """Wait for its end."""
        while (left := self._until - time.monotonic()) > 0:  # noqa: ASYNC110 - it may be extended meanwhile
            await asyncio.sleep(left)
