"""The engines of a solver: opened with the first question, shared by all, in an event loop of their own.

What this file does not cover: what a question is, and how it is answered (`solver`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rstar.background import BackgroundLoop
from rstar.engines import EngineConfig, open_policy
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig
from rstar.sandbox import SandboxConfig, SandboxPool
from rstar.values import open_value

if TYPE_CHECKING:
    from rstar.protocols import ExecutionResult, PolicyBackend, RunRequest, Sandbox, ValueBackend

T = TypeVar("T")


class Deadline:
    """Ends the block that it is the context of, in time or when interrupted, and says which."""

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self.interrupted = False
        self.expired = False

    def begin(self, seconds: float | None) -> None:
        """From now on there are so many seconds."""
        if seconds is not None and not self.interrupted:
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    def interrupt(self) -> None:
        """Now."""
        self.interrupted = True
        self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            self.expired = True
            return True
        return False


class OwnStates:
    """A sandbox in which one search has its states to itself: equal questions have trees of equal names, and the first to end
    would take the others' states away."""

    def __init__(self, sandbox: Sandbox, owner: str) -> None:
        self._sandbox, self._owner = sandbox, owner

    async def run(self, request: RunRequest) -> ExecutionResult:
        """As the sandbox does, in a group of the owner's."""
        return await self._sandbox.run(replace(request, group=self._own(request.group)))

    def release(self, group: str) -> None:
        """Forget the owner's states of a group."""
        self._sandbox.release(self._own(group))

    async def aclose(self) -> None:
        """The sandbox is others' too."""

    def _own(self, group: str) -> str:
        return f"{group} of {self._owner}"


class SharedEngines:
    """The engines, opened once, and the searches that run with them. Lives in the solver's event loop."""

    def __init__(
        self,
        policy: str | os.PathLike[str] | PolicyBackend,
        ppm: str | os.PathLike[str] | ValueBackend | None,
        engine: EngineConfig,
        sandbox: SandboxConfig,
        grading: GraderConfig,
    ) -> None:
        self._policy, self._ppm = policy, ppm
        self._engine, self._sandbox, self._grading = engine, sandbox, grading
        self._stack = AsyncExitStack()
        self._opened: asyncio.Future[tuple[Engines, Grader]] | None = None
        self._deadlines: set[Deadline] = set()
        self._owners = count()
        self.gate = asyncio.Semaphore(engine.max_trees_in_flight)

    async def opened(self) -> tuple[Engines, Grader]:
        """Open what is not open yet; after a failure the next call tries again."""
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._opened)
        except Exception:
            self._opened = None
            raise

    def apart(self, engines: Engines) -> Engines:
        """The engines for one search, whose states in the sandbox nobody else has."""
        return replace(engines, sandbox=OwnStates(engines.sandbox, str(next(self._owners))))

    async def _open(self) -> tuple[Engines, Grader]:
        async with AsyncExitStack() as stack:
            policy = self._policy
            if isinstance(policy, str | os.PathLike):
                opened = open_policy(Path(policy), self._engine)
                stack.push_async_callback(opened.aclose)
                await opened.start()
                policy = opened
            else:
                stack.push_async_callback(policy.aclose)
            value = self._ppm
            if isinstance(value, str | os.PathLike):
                value = open_value(Path(value), self._engine)
            if value is not None:
                stack.push_async_callback(value.aclose)
            sandbox = SandboxPool(self._sandbox)
            stack.push_async_callback(sandbox.aclose)
            await sandbox.start()
            grader = Grader(self._grading)
            stack.push_async_callback(grader.aclose)
            self._stack = stack.pop_all()
        return Engines(policy=policy, sandbox=sandbox, value=value), grader

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[Deadline]:
        """A deadline that `interrupt` reaches too."""
        deadline = Deadline()
        self._deadlines.add(deadline)
        try:
            async with deadline:
                yield deadline
        finally:
            self._deadlines.discard(deadline)

    async def interrupt(self) -> None:
        """A coroutine, so that it comes after the first steps of all that was submitted before it."""
        for deadline in self._deadlines:
            deadline.interrupt()

    async def aclose(self) -> None:
        """Close what is open."""
        await self._stack.aclose()


class EngineRoom:
    """The event loop in which a solver, and all that `with_options` made of it, are at work; started with the first question."""

    def __init__(self, engines: SharedEngines) -> None:
        self.engines = engines
        self._starting = threading.Lock()
        self._loop: BackgroundLoop | None = None
        self._closer: Callable[[], object] = lambda: None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop; cancelling the future cancels it."""
        with self._starting:
            if self._loop is None:
                self._loop = BackgroundLoop("rstar-solver")
                self._closer = weakref.finalize(self, _close, self._loop, self.engines)
        return self._loop.submit(work)

    def interrupt(self) -> None:
        """End every search that was submitted by now; each answers with what it knows."""
        if self._loop is not None:
            self._loop.submit(self.engines.interrupt())

    def close(self) -> None:
        """End everything; a second call does nothing."""
        self._closer()


def _close(loop: BackgroundLoop, engines: SharedEngines) -> None:
    loop.end_tasks()
    loop.submit(engines.aclose()).result()
    loop.close()
