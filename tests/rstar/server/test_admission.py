"""Who may search, exactly: running, waiting in order, refused, given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from rstar import ConfigError
from rstar.server.admission import Admission
from rstar.server.config import ServerConfig
from rstar.server.errors import ApiError
from rstar.server.merging import merged


def test_so_many_run_so_many_wait_and_the_next_is_refused_until_one_has_ended() -> None:
    async def go() -> None:
        admission = Admission(ServerConfig(max_searches=2, max_waiting=3))
        order: list[int] = []
        most = 0
        leave = asyncio.Event()

        async def search(name: int) -> None:
            nonlocal most
            with admission.admit(1):
                async with admission.turn():
                    order.append(name)
                    most = max(most, admission.running)
                    await leave.wait()

        tasks = [asyncio.create_task(search(name)) for name in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (2, 3)
        with pytest.raises(ApiError) as refused, admission.admit(1):
            pass
        assert refused.value.status_code == 429
        assert 1 <= int((refused.value.headers or {})["Retry-After"]) <= 60
        leave.set()
        await asyncio.gather(*tasks)
        assert (admission.running, admission.waiting, most) == (0, 0, 2)
        assert order == [0, 1, 2, 3, 4]
        with admission.admit(5):
            assert admission.waiting == 5

    asyncio.run(go())


def test_a_turn_that_does_not_come_in_time_is_given_up_and_loses_no_place() -> None:
    async def go() -> None:
        admission = Admission(ServerConfig(max_searches=1, max_wait_s=0.01))
        with admission.admit(2):
            async with admission.turn():
                with pytest.raises(ApiError) as given_up:
                    async with admission.turn():
                        pass
            assert given_up.value.status_code == 503
            async with admission.turn():
                assert admission.running == 1
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(go())


def test_a_closed_server_takes_nobody_and_turns_those_away_that_wait() -> None:
    async def go() -> None:
        admission = Admission(ServerConfig(max_searches=1))
        with admission.admit(1):
            admission.closed = True
            with pytest.raises(ApiError, match="stopping"):
                async with admission.turn():
                    pass
        with pytest.raises(ApiError, match="stopping"), admission.admit(1):
            pass

    asyncio.run(go())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 70_000}, "port is 70000; it must be in 0..65535"),
        ({"api_key": ""}, "api_key is ''; it must be a text, or null"),
        ({"max_searches": 0}, "max_searches is 0; it must be at least 1"),
        ({"max_seconds": 0}, "max_seconds is 0; it must be above 0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_merged_streams_give_everything_in_the_order_of_each_and_end_with_the_first_error() -> None:
    closed: list[int] = []

    async def stream(index: int, to: int, *, fail: bool = False) -> AsyncGenerator[int, None]:
        try:
            for number in range(to):
                await asyncio.sleep(0)
                yield number
            if fail:
                raise ValueError("broken")
        finally:
            closed.append(index)

    async def everything() -> list[tuple[int, int]]:
        return [one async for one in merged([stream(0, 3), stream(1, 0), stream(2, 5)])]

    found = asyncio.run(everything())
    assert [number for index, number in found if index == 2] == [0, 1, 2, 3, 4]
    assert [number for index, number in found if index == 0] == [0, 1, 2]
    assert sorted(closed) == [0, 1, 2]

    async def broken() -> None:
        async for _ in merged([stream(0, 10**9), stream(1, 2, fail=True)]):
            pass

    closed.clear()
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(broken())
    assert sorted(closed) == [0, 1]
