"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What any of the streams gives, as it comes, with the stream's index. The first error ends all of them; so does
    closing this, and when it is closed they have ended."""
    queue: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def drain(index: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for one in stream:
                    queue.put_nowait((index, one))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(drain(index, stream)) for index, stream in enumerate(streams)]
    try:
        open_streams = len(tasks)
        while open_streams:
            one = await queue.get()
            if one is not None:
                yield one
                continue
            open_streams -= 1
            for task in tasks:
                if task.done():
                    task.result()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
