"""Random operations on random trees, under eviction, consumption, kills and concurrency, against a naive replay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.protocols import ExecutionResult, ExecutionVerdict, RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool
from tests.rstar.sandbox.naive_replay import NaiveReplay
from tests.rstar.sandbox.test_hostile import interpreters_of

FIRST = """
import decimal, functools, itertools, math, random
values, counter, stream = [], 0, itertools.count()
@functools.lru_cache
def slow(n):
    values.append(("called", n))
    return n * n
print("started")
"""
STEPS = (
    "values.append({n})\nprint(values)",
    "counter += {n}\nprint(counter)",
    "print(next(stream), next(stream))",
    "print(random.random(), random.randrange({n} + 2))",
    "random.seed({n})",
    "print(slow({n}), len(values))",
    "decimal.getcontext().prec = {n} + 2\nprint(decimal.Decimal(1) / 7)",
    "print(decimal.Decimal(2).sqrt(), counter)",
    "def f(x, k={n}):\n    global counter\n    counter += k\n    return x + counter",
    "print(f(1))",
    "math.pi = {n}",
    "print(math.pi)",
    "values.clear()\nraise KeyError({n})",
    "counter = 99\nprint('before')\nraise SystemExit",
    "values = values[::-1]; print(len(values), counter, {n})",
    "from fractions import Fraction\nprint(Fraction({n}, 7) + counter)",
    "print({n})  # numpy is only mentioned",
)


@dataclass(frozen=True)
class Operation:
    """Run a step on a node chosen by number, or kill a paused interpreter chosen by number."""

    kind: str
    choice: int
    code: str
    keep_state: bool
    last_child: bool


operations = st.lists(
    st.builds(
        Operation,
        kind=st.sampled_from(["run"] * 12 + ["kill"]),
        choice=st.integers(0, 1000),
        code=st.builds(
            lambda template, n: template.replace("{n}", str(n)), st.sampled_from(STEPS), st.integers(0, 5)
        ),
        keep_state=st.booleans(),
        last_child=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module")
def naive() -> Iterator[NaiveReplay]:
    helper = NaiveReplay()
    yield helper
    helper.close()


@pytest.fixture(scope="module", params=[2, 500], ids=["nearly all evicted", "nothing evicted"])
def small_pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    pool = SandboxPool(SandboxConfig(num_shards=1, max_snapshots=request.param, max_running=3))
    asyncio.run(pool.start())
    yield pool
    asyncio.run(pool.aclose())


@settings(max_examples=25)
@given(operations=operations, batch_size=st.integers(1, 6))
def test_random_trees_equal_naive_replay(
    small_pool: SandboxPool, naive: NaiveReplay, operations: list[Operation], batch_size: int
) -> None:
    wrong = asyncio.run(_run(small_pool, naive, operations, batch_size))
    assert wrong == []


async def _run(
    pool: SandboxPool, naive: NaiveReplay, operations: list[Operation], batch_size: int
) -> list[tuple[tuple[str, ...], ExecutionResult, tuple[str, str]]]:
    wrong = []
    paths: list[tuple[str, ...]] = [(FIRST,)]
    for start in range(0, len(operations), batch_size):
        requests = []
        for operation in operations[start : start + batch_size]:
            if operation.kind == "kill":
                _kill_a_paused_interpreter(pool, operation.choice)
                continue
            history = paths[operation.choice % len(paths)]
            requests.append(
                RunRequest(
                    code=operation.code,
                    history=history,
                    group="tree",
                    keep_state=operation.keep_state,
                    last_child=operation.last_child,
                )
            )
        for request, result in zip(requests, await asyncio.gather(*map(pool.run, requests)), strict=True):
            codes = (*request.history, request.code)
            verdict, stdout = naive.answer(codes)
            error_type = "ok" if result.verdict is ExecutionVerdict.OK else result.error.split(":")[0]
            if (error_type, result.stdout) != (verdict, stdout):
                wrong.append((codes, result, (verdict, stdout)))
            if verdict == "ok":
                paths.append(codes)
    pool.release("tree")
    return wrong


def _kill_a_paused_interpreter(pool: SandboxPool, choice: int) -> None:
    """And wait until the pool has noticed: a step begun in it in that very moment would be killed with it, rightly."""
    paused = sorted(pid for pid, status in interpreters_of(pool).items() if status == "stopped")
    if paused:
        victim = paused[choice % len(paused)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        while victim in interpreters_of(pool):
            time.sleep(0.001)
