"""Where work waits and is done: processors that share a machine's cores, and an engine with continuous batching."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rounds.simulation.clock import Call, Clock


@dataclass(slots=True)
class Usage:
    """How long something was busy. `since`: when what is going on now began."""

    clock: Clock
    level: float = 0.0
    area: float = 0.0
    since: float = 0.0

    def set(self, level: float) -> None:
        """From now on so much of it is in use."""
        now = self.clock.now
        self.area += self.level * (now - self.since)
        self.level, self.since = level, now

    def total(self) -> float:
        """Time in use, times how much."""
        self.set(self.level)
        return self.area


class Cores:
    """A machine's cores, shared evenly by whatever computes: with more at work than cores, all are slowed alike."""

    def __init__(self, root: Clock, num_cores: float) -> None:
        self.clock = Clock(root)
        self.usage = Usage(root)
        self._num_cores = num_cores
        self._active = 0

    def begin(self) -> None:
        """One more computes."""
        self._active += 1
        self._share()

    def end(self) -> None:
        """One fewer does."""
        self._active -= 1
        self._share()

    def _share(self) -> None:
        self.clock.rate = min(1.0, self._num_cores / self._active) if self._active else 1.0
        self.usage.set(min(self._active, self._num_cores))


class Servers:
    """So many servers and one queue, first come first served. With `cores` they compute there, else elsewhere."""

    def __init__(self, root: Clock, count: int, cores: Cores | None = None) -> None:
        self.usage = Usage(root)
        self.longest_queue = 0
        self._clock = cores.clock if cores else root
        self._cores, self._count = cores, count
        self._busy = 0
        self._queue: deque[tuple[float, Call]] = deque()

    def serve(self, seconds: float, done: Call) -> None:
        """Call when a server has worked for `seconds` on this."""
        if self._busy < self._count:
            self._begin(seconds, done)
        else:
            self._queue.append((seconds, done))
            self.longest_queue = max(self.longest_queue, len(self._queue))

    def _begin(self, seconds: float, done: Call) -> None:
        self._busy += 1
        self.usage.set(self._busy)
        if self._cores:
            self._cores.begin()
        self._clock.after(seconds, lambda: self._end(done))

    def _end(self, done: Call) -> None:
        self._busy -= 1
        self.usage.set(self._busy)
        if self._cores:
            self._cores.end()
        if self._queue:
            self._begin(*self._queue.popleft())
        done()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one forward pass over so many rows: the weights once, and each row."""

    base_s: float
    row_s: float

    def __call__(self, rows: int) -> float:
        return self.base_s + self.row_s * rows


class BatchEngine:
    """Continuous batching: every pass gives each candidate in the batch one token; requests join as soon as there is room
    for all their candidates, in order. Tokens of a prefix that are not cached stall the batch for a row's time each.

    With `cores` the engine computes there (a CPU), else on a device of its own.
    """

    def __init__(self, root: Clock, step: StepTime, *, max_rows: int, cores: Cores | None = None) -> None:
        self.usage = Usage(root)
        self.rows = Usage(root)
        self.tokens = 0
        self._step, self._max_rows, self._cores = step, max_rows, cores
        self._parent = cores.clock if cores else root
        self._clock = Clock(self._parent, 0.0)
        self._num_rows = 0
        self._stalls = 0
        self._waiting: deque[tuple[Sequence[int], float, Call]] = deque()

    def decode(self, token_counts: Sequence[int], prefix_tokens: float, done: Call) -> None:
        """Call when candidates of these lengths are complete."""
        self._waiting.append((token_counts, prefix_tokens, done))
        self._admit()

    @property
    def load(self) -> int:
        """Candidates in the batch and before it."""
        return self._num_rows + sum(len(counts) for counts, _, _ in self._waiting)

    def _admit(self) -> None:
        stall_tokens = 0.0
        while self._waiting:
            counts, prefix_tokens, done = self._waiting[0]
            if self._num_rows and self._num_rows + len(counts) > self._max_rows:
                break
            self._waiting.popleft()
            stall_tokens += prefix_tokens
            self._start(counts, done)
        if stall_tokens:
            self._stalls += 1
            self._parent.after(stall_tokens * self._step.row_s, self._resume)
        self._set_rate()

    def _start(self, counts: Sequence[int], done: Call) -> None:
        if not self._num_rows and self._cores:
            self._cores.begin()
        self._num_rows += len(counts)
        self.tokens += sum(counts)
        left = len(counts)

        def ended() -> None:
            nonlocal left
            left -= 1
            self._num_rows -= 1
            if not self._num_rows and self._cores:
                self._cores.end()
            self._admit()
            if not left:
                done()

        for count in counts:
            self._clock.after(count, ended)

    def _resume(self) -> None:
        self._stalls -= 1
        self._set_rate()

    def _set_rate(self) -> None:
        self.usage.set(float(self._num_rows > 0))
        self.rows.set(self._num_rows)
        running = self._num_rows and not self._stalls
        self._clock.rate = 1 / self._step(self._num_rows) if running else 0.0
