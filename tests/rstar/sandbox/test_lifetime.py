"""Processes end when they should: with the pool, with the client, with the server; and steps survive the loss."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from rstar.errors import SandboxError
from rstar.protocols import ExecutionVerdict, RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool
from tests.rstar.sandbox.conftest import LIMITS
from tests.rstar.sandbox.test_hostile import interpreters_of, server_of, wait_until

CLIENT = """
import asyncio, sys, time
from rstar.protocols import RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool

async def main():
    pool = SandboxPool(SandboxConfig(cpu_s=60, wall_s=180, num_shards=1))
    await pool.start()
    for i in range(5):
        await pool.run(RunRequest(code=f"x = {i}", group="g"))
    loops = [asyncio.create_task(pool.run(RunRequest(code=f"while True: x = {i}", group="g"))) for i in range(2)]
    await asyncio.sleep(0.3)
    print(pool._shards[0].pid, flush=True)
    await asyncio.gather(*loops)

asyncio.run(main())
"""


def alive(pids: list[int]) -> list[int]:
    """Those that exist, as a running process or as a zombie."""
    return [pid for pid in pids if psutil.pid_exists(pid)]


def test_sigkill_of_the_client_leaves_nothing(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], env=environment, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        server = psutil.Process(int(client.stdout.readline()))
        pids = [server.pid, *(child.pid for child in server.children(recursive=True))]
        assert len(pids) >= 1 + 3 + 5 + 2
        client.kill()
    assert wait_until(lambda: not alive(pids)), alive(pids)


@pytest.mark.parametrize("without", [(), ("pid",)], ids=["process namespace", "death signal only"])
def test_sigkill_of_the_server_leaves_nothing_and_the_step_is_run_again(without: tuple[str, ...]) -> None:
    async def scenario() -> None:
        config = SandboxConfig(num_shards=1, cpu_s=3.0, wall_s=9.0)
        pool = SandboxPool(config, _without=without)
        if without:
            with pytest.warns(RuntimeWarning, match="no process namespace"):
                await pool.start()
        else:
            await pool.start()
        for i in range(5):
            await pool.run(RunRequest(code=f"x = {i}\nprint(x)", group="g"))
        slow = asyncio.create_task(
            pool.run(
                RunRequest(
                    code="import time\ntime.sleep(0.5)\nprint(x + 1)", history=("x = 4\nprint(x)",), group="g"
                )
            )
        )
        await asyncio.sleep(0.2)
        pids = [server_of(pool).pid, *interpreters_of(pool)]
        os.kill(pids[0], signal.SIGKILL)
        result = await slow
        assert (result.verdict, result.stdout, result.replayed_steps) == (ExecutionVerdict.OK, "5\n", 1)
        assert pool.stats().shard_losses == 1
        assert wait_until(lambda: not alive(pids)), alive(pids)
        await pool.aclose()

    asyncio.run(scenario())


def test_closing_leaves_no_process_and_refuses_further_steps() -> None:
    async def scenario() -> None:
        pool = SandboxPool(LIMITS)
        await asyncio.gather(*(pool.run(RunRequest(code=f"x = {i}", group=f"{i}")) for i in range(20)))
        endless = asyncio.create_task(pool.run(RunRequest(code="import time\ntime.sleep(9)", group="0")))
        await asyncio.sleep(0.1)
        pids = [server_of(pool).pid, *interpreters_of(pool)]
        await pool.aclose()
        assert wait_until(lambda: not alive(pids)), alive(pids)
        with pytest.raises(SandboxError, match="was closed"):
            await endless
        with pytest.raises(SandboxError, match="was closed"):
            await pool.run(RunRequest(code="x = 1"))
        await pool.aclose()

    asyncio.run(scenario())


def test_a_cancelled_step_is_killed_and_its_slot_is_free() -> None:
    async def scenario() -> None:
        async with SandboxPool(SandboxConfig(num_shards=1, max_running=1, cpu_s=60.0, wall_s=180.0)) as pool:
            task = asyncio.create_task(pool.run(RunRequest(code="while True: pass", group="g")))
            await asyncio.sleep(0.3)
            task.cancel()
            assert (await pool.run(RunRequest(code="print(1)", group="g"))).stdout == "1\n"

    asyncio.run(scenario())


def test_groups_take_turns() -> None:
    """With one slot, a group that asks for a single step does not wait for all of another group's."""

    async def scenario() -> None:
        finished: list[str] = []

        async def step(pool: SandboxPool, group: str, number: int) -> None:
            code = f"import time\ntime.sleep(0.01)\nn = {number}"
            await pool.run(RunRequest(code=code, group=group))
            finished.append(group)

        async with SandboxPool(SandboxConfig(num_shards=1, max_running=1)) as pool:
            await asyncio.gather(*(step(pool, "many", i) for i in range(20)), step(pool, "one", 0))
        assert finished.index("one") <= 3

    asyncio.run(scenario())


def test_one_pool_serves_loops_in_several_threads(pool: SandboxPool) -> None:
    outputs: dict[int, list[str]] = {}

    def use(number: int) -> None:
        async def steps() -> list[str]:
            results = await asyncio.gather(
                *(pool.run(RunRequest(code=f"print({number}, {i})", group=f"t{number}")) for i in range(10))
            )
            return [result.stdout for result in results]

        outputs[number] = asyncio.run(steps())
        pool.release(f"t{number}")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: [f"{number} {i}\n" for i in range(10)] for number in range(4)}


def test_groups_spread_over_the_shards() -> None:
    async def scenario() -> None:
        async with SandboxPool(SandboxConfig(num_shards=2)) as pool:
            requests = [RunRequest(code=f"x = {i}", group=f"g{i}") for i in range(6)]
            await asyncio.gather(*map(pool.run, requests))
            assert pool._num_groups == [3, 3]
            pool.release("g0")
            pool.release("g2")
            await pool.run(RunRequest(code="x = 1", group="next"))
            assert pool._num_groups == [2, 3]

    asyncio.run(scenario())


def test_snapshots_survive_a_burst_of_time_outs(pool: SandboxPool, group: str) -> None:
    async def scenario() -> None:
        base = "values = list(range(5))"
        await pool.run(RunRequest(code=base, group=group))
        codes = ["while True: pass", "print(sum(values))"] * 4
        results = await asyncio.gather(
            *(
                pool.run(RunRequest(code=code + f"\n# {i}", history=(base,), group=group))
                for i, code in enumerate(codes)
            )
        )
        assert [result.verdict.value for result in results] == ["timeout", "ok"] * 4
        assert {result.stdout for result in results[1::2]} == {"10\n"}
        assert all(result.replayed_steps == 0 for result in results)

    asyncio.run(scenario())
