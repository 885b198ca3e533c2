"""The grader: are two answers equal? One verdict with a reason, within a bounded time, from any thread or event loop.

Most pairs are decided here in pure Python; no process is started and no computer algebra imported for them. The rest
goes to killable workers (`pool`). The rules are in docs/grading.md. What this file does not cover: finding the answer
in a solution (`rstar.steps`), and what an answer is worth (`judges`).
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

from rstar.errors import ConfigError
from rstar.grading.compare import Comparison
from rstar.grading.normalise import normalise
from rstar.grading.pool import Status, WorkerPool
from rstar.grading.structure import Answer, Leaf, parse
from rstar.grading.verdict import Verdict, VerdictReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderConfig:
    """Limits of grading [ours].

    `cpu_limit_s` is a worker's CPU time for one pair, so that a busy machine does not change verdicts; `deadline_s`
    is the wall time after which it is killed. An answer over `max_chars` characters is only compared as text.
    `cache_size` verdicts are kept.
    """

    num_workers: int = 2
    cpu_limit_s: float = 3.0
    deadline_s: float = 8.0
    memory_bytes: int = 2 << 30
    max_chars: int = 2000
    cache_size: int = 65536

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpu_limit_s", "deadline_s", "memory_bytes", "max_chars", "cache_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"grading.{name} must be positive, not {getattr(self, name)}")
        if self.deadline_s <= self.cpu_limit_s:
            raise ConfigError(
                f"grading.deadline_s ({self.deadline_s:g}) must be above grading.cpu_limit_s ({self.cpu_limit_s:g})"
            )


_REASONS = {
    "equal": VerdictReason.SYMBOLIC,
    "different": VerdictReason.DIFFERENT,
    "unread": VerdictReason.UNPARSABLE,
    "timeout": VerdictReason.TIMEOUT,
    "memory": VerdictReason.CRASH,
    "crash": VerdictReason.CRASH,
}
_DETAILS = {"timeout": "out of CPU time", "memory": "out of memory"}


class Grader:
    """Compares answers. Thread-safe; usable from several event loops at once; not across a fork.

    Use it as a context manager (`with` or `async with`), or call `close` / `aclose`; workers also end with this
    process, however it ends.
    """

    def __init__(self, config: GraderConfig | None = None) -> None:
        self.config = config or GraderConfig()
        self._pool = WorkerPool(
            num_workers=self.config.num_workers,
            cpu_limit_s=self.config.cpu_limit_s,
            deadline_s=self.config.deadline_s,
            memory_bytes=self.config.memory_bytes,
        )
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._under_way: dict[tuple[str, str], Future[Verdict]] = {}
        self._finalizer = weakref.finalize(self, self._pool.close)

    async def grade(self, answer: str, reference: str) -> Verdict:
        """Whether `answer` equals `reference`. Symmetric, and deterministic but for TIMEOUT and CRASH.

        Raises GradingError only if the grader itself fails: workers do not start, or die of harmless input.
        """
        verdict = self._grade(answer, reference)
        if isinstance(verdict, Verdict):
            return verdict
        return await asyncio.shield(asyncio.wrap_future(verdict))

    def grade_sync(self, answer: str, reference: str) -> Verdict:
        """`grade` for callers without an event loop, in any thread; blocks until the verdict is there."""
        verdict = self._grade(answer, reference)
        return verdict if isinstance(verdict, Verdict) else verdict.result()

    async def classes(self, answers: Sequence[str]) -> list[int]:
        """The class of each answer, numbered by first appearance: it joins the first class whose first member it
        equals. An answer that cannot be read is equal to its own text alone; empty answers share a class."""
        first_members: list[str] = []
        class_by_text: dict[str, int] = {}
        result: list[int] = []
        for answer in answers:
            text = self._normal(answer)
            if (index := class_by_text.get(text)) is None:
                verdicts = await asyncio.gather(*(self.grade(answer, member) for member in first_members))
                index = next((i for i, verdict in enumerate(verdicts) if verdict.equal), len(first_members))
                if index == len(first_members):
                    first_members.append(answer)
                class_by_text[text] = index
            result.append(index)
        return result

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the live workers; empty until a pair needs computer algebra."""
        return self._pool.pids

    def close(self) -> None:
        """End the workers; verdicts that are still awaited become GradingErrors. Idempotent."""
        self._finalizer()

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _normal(self, answer: str) -> str:
        return answer.strip() if len(answer) > self.config.max_chars else _read(answer)[0]

    def _grade(self, answer: str, reference: str) -> Verdict | Future[Verdict]:
        """The verdict, if pure Python or the cache knows it; else a future that a worker's thread completes."""
        for text in (answer, reference):
            if len(text) > self.config.max_chars:
                if answer.strip() == reference.strip():
                    return Verdict(True, VerdictReason.IDENTICAL, "compared as text")
                return Verdict(
                    False,
                    VerdictReason.UNPARSABLE,
                    f"{len(text):,} characters; more than {self.config.max_chars:,} are not read",
                )
        (a, shape_a), (b, shape_b) = _read(answer), _read(reference)
        for normal, name in ((a, "answer"), (b, "reference")):
            if not normal:
                return Verdict(False, VerdictReason.UNPARSABLE, f"the {name} is empty")
        if a == b:
            return Verdict(True, VerdictReason.IDENTICAL)
        key = (a, b) if a <= b else (b, a)
        with self._lock:
            if (known := self._verdicts.get(key)) is not None:
                self._verdicts.move_to_end(key)
                return known
            if (waiting := self._under_way.get(key)) is not None:
                return waiting
        if (verdict := decide_in_python(shape_a, shape_b)) is not None:
            self._remember(key, verdict)
            return verdict
        return self._ask_worker(key)

    def _ask_worker(self, key: tuple[str, str]) -> Future[Verdict]:
        verdict_future: Future[Verdict] = Future()
        with self._lock:
            if (waiting := self._under_way.get(key)) is not None:
                return waiting
            self._under_way[key] = verdict_future
        verdict_future.set_running_or_notify_cancel()  # shared by all who ask: nobody may cancel it

        def finish(done: Future[Status]) -> None:
            error = done.exception()
            if error is None:
                status = done.result()
                reason = _REASONS[status.status]
                detail = status.detail or _DETAILS.get(status.status, "")
                self._remember(key, Verdict(reason is VerdictReason.SYMBOLIC, reason, detail))
            with self._lock:
                del self._under_way[key]
                verdict = self._verdicts.get(key)
            if error is not None or verdict is None:
                verdict_future.set_exception(error or AssertionError("a verdict was forgotten at once"))
            else:
                verdict_future.set_result(verdict)

        try:
            self._pool.submit(*key).add_done_callback(finish)
        except BaseException as error:
            with self._lock:
                del self._under_way[key]
            verdict_future.set_exception(error)
        return verdict_future

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        with self._lock:
            self._verdicts[key] = verdict
            self._verdicts.move_to_end(key)
            while len(self._verdicts) > self.config.cache_size:
                self._verdicts.popitem(last=False)


@lru_cache(maxsize=8192)
def _read(text: str) -> tuple[str, Answer]:
    normal = normalise(text)
    return normal, parse(normal)


def decide_in_python(a: Answer, b: Answer) -> Verdict | None:
    """The verdict on two different structures where no computer algebra is needed, None where it is."""
    comparison = Comparison(lambda _a, _b: None)
    equal = comparison.equal(a, b)
    if equal is None:
        return None
    if not equal:
        return Verdict(False, VerdictReason.DIFFERENT)
    if comparison.approximate:
        return Verdict(True, VerdictReason.APPROXIMATE)
    leaves = isinstance(a, Leaf) and isinstance(b, Leaf)
    return Verdict(True, VerdictReason.NUMERIC if leaves else VerdictReason.STRUCTURAL)
