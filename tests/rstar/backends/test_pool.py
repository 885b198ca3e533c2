"""The pool with a small engine of the tests' own: who gets a request, what happens when something fails or dies.

Its replicas are real threads and processes, as those of a model are; `test_transformers` has the model.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rstar.backends.pool import ReplicaPool, choose_replicas
from rstar.backends.stats import Totals
from rstar.errors import BackendError, ConfigError

PATIENCE_S = 60


@dataclass(slots=True)
class Counted(Totals):
    answers: int = 0
    cancelled: int = 0


class Doubler:
    """Doubles numbers and says in which process. "break" fails the step that it is in, "die" ends the process, "hold" is
    never answered."""

    def __init__(self) -> None:
        self.stats = Counted()
        self._waiting: list[tuple[int, int | str]] = []

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def reset(self) -> None:
        self._waiting.clear()

    def submit(self, job_id: int, request: int | str) -> None:
        if request == "die":
            os._exit(7)
        if request != "hold":
            self._waiting.append((job_id, request))

    def cancel(self, job_id: int) -> None:
        self.stats.cancelled += 1

    def step(self) -> list[tuple[int, tuple[int, int]]]:
        if any(request == "break" for _, request in self._waiting):
            raise ArithmeticError("no doubling\nof this")
        done = [(job_id, (2 * int(number), os.getpid())) for job_id, number in self._waiting]
        self._waiting.clear()
        self.stats.answers += len(done)
        return done


@dataclass(frozen=True)
class DoublerSettings:
    """Loads a doubler, unless there is a file that says no."""

    refusal: Path | None = None
    device: str = "none"

    def load(self) -> Doubler:
        if self.refusal is not None and self.refusal.exists():
            raise ConfigError(self.refusal.read_text())
        return Doubler()


@asynccontextmanager
async def pool_of(
    num_replicas: int, settings: DoublerSettings | None = None, max_imbalance: int = 4
) -> AsyncIterator[ReplicaPool[Any, Any, Counted]]:
    pool: ReplicaPool[Any, Any, Counted] = ReplicaPool(
        settings or DoublerSettings(), num_replicas=num_replicas, max_imbalance=max_imbalance,
        kind="doubler", model=Path("doubler"), totals=Counted,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield pool
    finally:
        await pool.aclose()


async def ask(pool: ReplicaPool[Any, Any, Counted], request: object, group: str = "", load: int = 1) -> Any:
    return await pool.ask(request, group=group, load=load)


@pytest.mark.parametrize("num_replicas", [0, 1, 2])
def test_every_request_gets_its_own_answer_and_totals_add_up(num_replicas: int) -> None:
    async def run() -> None:
        async with pool_of(num_replicas) as pool:
            found = await asyncio.gather(*(ask(pool, number) for number in range(20)))
            assert [answer for answer, _ in found] == [2 * number for number in range(20)]
            expected = {os.getpid()} if num_replicas == 0 else set(pool.pids)
            assert {pid for _, pid in found} == expected
            assert len(expected) == max(num_replicas, 1)
            assert pool.stats() == Counted(20)

    asyncio.run(run())


def test_a_group_keeps_its_replica_until_that_one_is_far_busier() -> None:
    async def run() -> None:
        async with pool_of(2, max_imbalance=4) as pool:
            (_, own), (_, other) = await asyncio.gather(ask(pool, 1, "a"), ask(pool, 1, "b"))
            assert own != other
            assert [(await ask(pool, 1, "a"))[1] for _ in range(3)] == [own] * 3
            held = asyncio.ensure_future(ask(pool, "hold", "a", load=5))
            await asyncio.sleep(0)
            assert (await ask(pool, 1, "a"))[1] == other
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)
            assert (await ask(pool, 1, "a"))[1] == other, "it moves back only when it must"

    asyncio.run(run())


@pytest.mark.parametrize("num_replicas", [0, 1])
def test_a_step_that_fails_fails_what_was_in_it_and_the_replica_lives(num_replicas: int) -> None:
    async def run() -> None:
        async with pool_of(num_replicas) as pool:
            before = await ask(pool, 1)
            for _ in range(5):  # more often than a replica may die
                with pytest.raises(
                    BackendError,
                    match=r"^the model in doubler could not answer: ArithmeticError: no doubling$",
                ):
                    await ask(pool, "break")
            assert await ask(pool, 1) == before

    asyncio.run(run())


def test_a_request_that_kills_its_replica_fails_alone_until_the_replica_is_given_up() -> None:
    async def run() -> None:
        async with pool_of(1) as pool:
            _, first = await ask(pool, 1)
            waiting = asyncio.ensure_future(ask(pool, "hold"))
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            while pool.pids == [first]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await ask(pool, 4))[0] == 8
            waiting.cancel()
            with pytest.raises(
                BackendError, match=r"its process ended with status 7, 2 times with this request$"
            ):
                await ask(pool, "die")
            assert (await ask(pool, 5))[0] == 10
            assert pool.stats() == Counted(3), "totals outlive the replicas that counted them"
            with pytest.raises(BackendError, match=r"^no replica of doubler is left: .*, after 3 restarts$"):
                await ask(pool, "die")

    asyncio.run(run())


@pytest.mark.parametrize("num_replicas", [0, 1])
def test_settings_that_do_not_load_are_a_config_error_each_time(num_replicas: int, tmp_path: Path) -> None:
    refusal = tmp_path / "refusal"
    refusal.write_text("the doubler is out of order")

    async def run() -> None:
        async with pool_of(num_replicas, DoublerSettings(refusal)) as pool:
            for _ in range(2):
                with pytest.raises(ConfigError, match=r"^the doubler is out of order$"):
                    await ask(pool, 1)

    asyncio.run(run())


def test_closing_fails_what_waits_and_what_comes_later_and_ends_the_processes() -> None:
    async def run() -> None:
        async with pool_of(1) as pool:
            await pool.start()
            (pid,) = pool.pids
            waiting = asyncio.ensure_future(ask(pool, "hold"))
            await asyncio.sleep(0)
            await pool.aclose()
            with pytest.raises(BackendError, match=r"could not answer: the back-end was closed$"):
                await waiting
            with pytest.raises(BackendError, match=r"^this doubler is closed$"):
                await ask(pool, 1)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def test_replicas_are_chosen_for_the_device() -> None:
    assert choose_replicas("cpu", None, on_cpu=3) == ("cpu", 3)
    assert choose_replicas("cpu", 0, on_cpu=3) == ("cpu", 0)
    with pytest.raises(ConfigError, match=r"^num_replicas is -1; it must be at least 0"):
        choose_replicas("cpu", -1, on_cpu=3)
    with pytest.raises(ConfigError, match=r"^num_replicas is 2; with device 'meta' it must be 0$"):
        choose_replicas("meta", 2, on_cpu=3)
