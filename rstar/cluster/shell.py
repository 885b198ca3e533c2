"""A command on a node of a Ray cluster, in the place of ssh: `python -m rstar.cluster.shell ADDRESS HOST COMMAND...`

As with ssh, the words of the command are joined and run by a shell in the home folder of the node's user, standard input
is passed on, output and errors come back as they are written, the exit code is the command's, and 255 says that the
connection failed. The environment is that of `ray start` on the node. The command ends when this process or its parent
ends. Launchers of training take it where they would take ssh; `training_slots` names the hosts.

What this file does not cover: how the command is ended (`leash`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rstar.cluster import leash
from rstar.cluster.connection import connected, last_line, nodes_of, on_node
from rstar.errors import ConfigError, RstarError

FAILED = 255
CHUNK_BYTES = 1 << 16
PARENT_POLL_S = 0.5

Piece = tuple[int, bytes] | int
"""Output for file descriptor 1 or 2; at the end, the exit code."""


class RemoteCommand:
    """One command on this node. Ray makes an asynchronous actor of it."""

    def __init__(self) -> None:
        self._started = asyncio.Event()

    async def run(self, command: str) -> AsyncIterator[Piece]:
        """Run it; yields what it writes as it does, and its exit code at the end."""
        held, self._hold = os.pipe()  # breaks when this process ends
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", leash.__file__, str(held), command,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            pass_fds=(held,), cwd=Path.home(), env=_node_environment(),
        )  # fmt: skip
        os.close(held)
        self._started.set()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        streams = {1: self._child.stdout, 2: self._child.stderr}
        readers = [asyncio.create_task(_read(number, stream, pieces)) for number, stream in streams.items()]
        for _ in readers:
            while (piece := await pieces.get()) is not None:
                yield piece
        yield await self._child.wait()

    async def feed(self, data: bytes) -> None:
        """Write to its standard input; no data close it. Harmless if the command does not read."""
        await self._started.wait()
        assert self._child.stdin is not None
        try:
            if data:
                self._child.stdin.write(data)
                await self._child.stdin.drain()
            else:
                self._child.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass


async def _read(number: int, stream: asyncio.StreamReader, pieces: asyncio.Queue[Piece | None]) -> None:
    while data := await stream.read(CHUNK_BYTES):
        pieces.put_nowait((number, data))
    pieces.put_nowait(None)


def _node_environment() -> dict[str, str]:
    """The environment in which Ray was started on this node: without what Ray changes for its workers (which GPUs they see,
    how many threads they have)."""
    import psutil

    for parent in psutil.Process().parents():
        if parent.name() == "raylet":
            return parent.environ()
    return dict(os.environ)


def run_on(address: str, host: str, command: str, streams: dict[int, int]) -> int:
    """Run a command on the node that is called `host` (address or host name); its exit code.

    `streams`: the file descriptors here for its output (1) and errors (2). Raises ConfigError for a cluster that cannot be
    reached, or has no such node.
    """
    with connected(address) as ray:
        nodes = nodes_of(ray)
        node = next((node for node in nodes if host in (node.host, node.hostname)), None)
        if node is None:
            raise ConfigError(
                f"the Ray cluster at {address} has no node {host}; it has {', '.join(sorted({n.host for n in nodes}))}"
            )
        options = ray.remote(num_cpus=0, scheduling_strategy=on_node(ray, node), runtime_env=None)
        actor = options(RemoteCommand).remote()
        try:
            pieces = actor.run.options(num_returns="streaming").remote(command)
            threading.Thread(target=_pass_input_on, args=(ray, actor), daemon=True).start()
            for piece in map(ray.get, pieces):
                if isinstance(piece, int):
                    return piece
                number, data = piece
                _write(streams[number], data)
        except ray.exceptions.RayError as error:
            raise ConfigError(f"the command on {host} was cut off: {last_line(error)}") from None
        finally:
            ray.kill(actor)
    raise AssertionError("the last piece is the exit code")


def _pass_input_on(ray: Any, actor: Any) -> None:
    while data := os.read(0, CHUNK_BYTES):
        ray.get(actor.feed.remote(data))
    ray.get(actor.feed.remote(b""))


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _end_with_parent() -> None:
    """A launcher that was killed does not tell its children."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(FAILED)


def _terminated(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """The exit code of the command, or 255."""
    if len(arguments) < 3:
        print("usage: python -m rstar.cluster.shell ADDRESS HOST COMMAND...", file=sys.stderr)
        return FAILED
    address, host, *command = arguments
    # Ray and gRPC write to these descriptors at times; the command's output goes past them.
    streams = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in streams:
        os.dup2(nowhere, number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with_signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for one in with_signals:
            signal.signal(one, _terminated)
        return run_on(address, host, " ".join(command), streams)
    except RstarError as error:
        _write(streams[2], f"rstar.cluster.shell: {error}\n".encode())
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
