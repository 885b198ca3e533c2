"""One pool for all tests of the sandbox: each runs in a group of its own, in an event loop of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest

from rstar.protocols import ExecutionResult, RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool

LIMITS = SandboxConfig(cpu_s=0.4, wall_s=1.2, memory_mb=256, max_output_chars=2000, hard_output_chars=200_000)

Program = Callable[..., ExecutionResult]
_names = (f"test-{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def pool() -> Iterator[SandboxPool]:
    """A started pool with short limits."""
    pool = SandboxPool(LIMITS)
    asyncio.run(pool.start())
    yield pool
    asyncio.run(pool.aclose())


@pytest.fixture
def group(pool: SandboxPool) -> Iterator[str]:
    """A group that is released after the test."""
    name = next(_names)
    yield name
    pool.release(name)


@pytest.fixture
def run(pool: SandboxPool, group: str) -> Program:
    """`run(*codes)`: the result of the last code, after the others as its history."""

    def run(*codes: str, keep_state: bool = True, last_child: bool = False) -> ExecutionResult:
        request = RunRequest(
            code=codes[-1], history=codes[:-1], group=group, keep_state=keep_state, last_child=last_child
        )
        return asyncio.run(pool.run(request))

    return run
