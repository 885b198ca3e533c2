"""An event loop whose time passes only when nothing is left to do: latency without waiting, exact and repeatable."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _InstantSelector(selectors.SelectSelector):
    """Instead of sleeping, moves the clock forward by as long as it was to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and nothing will ever happen")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualClock(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and counts the seconds that sleeping tasks asked for. Threads and processes must not be
    waited for in it: their time does not pass here."""

    def __init__(self) -> None:
        self._instant = _InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now_s


def run_on_virtual_clock(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `main`, and the virtual seconds that it took."""
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        result = runner.run(main)
        return result, runner.get_loop().time()
