"""Clocks that run on other clocks: shared processors, and an engine whose speed depends on its batch, are clocks of a rate.

What is due on a clock moves with its rate, at no cost per event that waits: only the earliest is known to the clock above.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

Call = Callable[[], None]

_ROUNDING = 1e-9
"""Times that differ by no more, as a share of themselves, are the same."""


class Clock:
    """Time that passes `rate` times as fast as the time of `parent`; without one, the time of the simulation itself."""

    def __init__(self, parent: Clock | None = None, rate: float = 1.0) -> None:
        self.parent = parent
        self._rate = rate
        self._then = 0.0
        self._parent_then = parent.now if parent else 0.0
        self._due: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._wake_at = math.inf
        """On the parent: when it will look at what is due. Never too late; too early is harmless."""

    @property
    def now(self) -> float:
        """The time on this clock."""
        if self.parent is None:
            return self._then
        return self._then + (self.parent.now - self._parent_then) * self._rate

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        if rate != self._rate:
            self._settle()
            self._rate = rate
            self._tell_parent()

    def after(self, delay: float, call: Call) -> None:
        """Call when `delay` has passed on this clock; calls of one moment keep their order."""
        at = self.now + delay
        heapq.heappush(self._due, (at, next(self._order), call))
        if self._due[0][0] == at:
            self._tell_parent()

    def run(self) -> float:
        """Let the root clock run until nothing is due; returns its time."""
        assert self.parent is None, "only the root runs by itself"
        while self._due:
            self._then, _, call = heapq.heappop(self._due)
            call()
        return self._then

    def _settle(self) -> None:
        if self.parent is not None:
            self._then, self._parent_then = self.now, self.parent.now

    def _tell_parent(self) -> None:
        """Be woken when the earliest is due, if not before."""
        if self.parent is None or not self._due or self._rate <= 0:
            return
        delay = max(0.0, (self._due[0][0] - self.now) / self._rate)
        at = self.parent.now + delay
        if at < self._wake_at:
            self._wake_at = at
            self.parent.after(delay, lambda: self._woken(at))

    def _woken(self, at: float) -> None:
        if at != self._wake_at:
            return  # it was woken earlier, and has agreed on another time
        self._wake_at = math.inf
        self._settle()
        if self._due and self._rate > 0 and self._due[0][0] - self._then <= _ROUNDING * max(1.0, self._then):
            self._then = max(self._then, self._due[0][0])
            while self._due and self._due[0][0] <= self._then:
                heapq.heappop(self._due)[2]()
        self._tell_parent()
