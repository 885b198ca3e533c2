"""The pool's end of one shard: start the server, speak to it from any event loop, notice when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar.errors import SandboxError
from rstar.sandbox import probes, wire
from rstar.sandbox.config import SandboxConfig
from rstar.sandbox.processes import ENVIRONMENT, command
from rstar.sandbox.report import IsolationReport
from rstar.sandbox.seal import FAR_AWAY_UID

START_TIMEOUT_S = 60.0
"""Longest start of a shard on a loaded machine; 1 s is usual."""


class ShardLostError(Exception):
    """The server of a shard has ended; what ran there is run again. Never leaves the pool."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One decoded answer of the server."""

    verdict: int
    stdout: bytes
    error: bytes
    truncated: int
    replayed: int
    cpu_s: float
    wall_s: float
    live_snapshots: int
    evictions: int
    nondeterministic_steps: int


class Shard:
    """One shard server. Methods may be called from any thread; `connection` belongs to the running loop."""

    def __init__(self, config: SandboxConfig, index: int, without: Collection[str]) -> None:
        self._config = config
        self._index = index
        self._without = sorted(without)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._connections: dict[asyncio.AbstractEventLoop, Connection] = {}
        self.report: IsolationReport | None = None
        self.generation = 0
        """How often it was started."""

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, lost_generation: int | None = None) -> None:
        """Start the server and wait until it is sealed and probed. Blocks; call it off the loop.

        `lost_generation`: do nothing if a later one runs already. Raises SandboxError if it does not start.
        """
        with self._lock:
            if lost_generation is not None and self.generation != lost_generation:
                return
            self._end(kill=True)
            settings = json.dumps(self._settings())
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    command("server", _package_root(), settings, str(theirs.fileno())),
                    env=ENVIRONMENT,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            self._control = ours
            self.report = self._await_report(ours)
            self.generation += 1

    def _settings(self) -> dict[str, Any]:
        config = self._config
        folders, readable = _library_paths(config.libraries)
        return {
            "root": _package_root(),
            "pool_pid": os.getpid(),
            "uid": FAR_AWAY_UID + self._index,
            "without": self._without,
            "libraries": list(config.libraries),
            "library_folders": folders,
            "readable": readable,
            "cpu_s": config.cpu_s,
            "wall_s": config.wall_s,
            "memory_mb": config.memory_mb,
            "max_output_chars": config.max_output_chars,
            "hard_output_chars": config.hard_output_chars,
            "max_running": config.running_per_shard,
            "max_snapshots": config.max_snapshots,
            "snapshot_bytes": config.snapshot_bytes_per_shard,
        }

    def _await_report(self, control: socket.socket) -> IsolationReport:
        control.settimeout(START_TIMEOUT_S)
        try:
            data = control.recv(1 << 18)
        except TimeoutError:
            self._end(kill=True)
            raise SandboxError(f"the sandbox did not start within {START_TIMEOUT_S:g} s") from None
        control.settimeout(None)
        if not data:
            self._end(kill=True)
            raise SandboxError("the sandbox ended while it was starting; its messages are on standard error")
        message = json.loads(data)
        if "failure" in message:
            self._end(kill=True)
            raise SandboxError(f"the sandbox cannot start: {message['failure']}")
        findings = message["findings"]
        # A layer holds if it holds for both zygotes: merge towards the worse finding.
        worst = {key: findings[-1][key] for key in findings[0]}
        for key in worst:
            if isinstance(worst[key], bool):
                good = key in ("imports", "no_new_privileges")
                values = [finding[key] for finding in findings]
                worst[key] = all(values) if good else any(values)
        return probes.judge(message["layers"], worst)

    def connection(self) -> Connection:
        """This loop's stream to the server; made when there is none. Raises ShardLostError if the server is gone."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None or connection.closed:
            with self._lock:
                self._drop_connections_of_closed_loops()
                ours, theirs = socket.socketpair()
                try:
                    assert self._control is not None
                    socket.send_fds(self._control, [b"S"], [theirs.fileno()])
                except OSError:
                    ours.close()
                    raise ShardLostError from None
                finally:
                    theirs.close()
                connection = Connection(loop, ours)
                self._connections[loop] = connection
        return connection

    def _drop_connections_of_closed_loops(self) -> None:
        for loop in [loop for loop in self._connections if loop.is_closed()]:
            self._connections.pop(loop).drop()

    def disconnect(self) -> None:
        """Close this loop's stream. Streams of other running loops end with the server."""
        with self._lock:
            self._drop_connections_of_closed_loops()
            connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            connection.lose()

    def release(self, group: str) -> None:
        """Forget a group, in order with this loop's requests if one runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        connection = self._connections.get(loop) if loop is not None else None
        if connection is not None and not connection.closed:
            connection.write(wire.encode_request(wire.RELEASE, 0, 0, group, ()))
            return
        with self._lock:
            if self._control is not None:
                with contextlib.suppress(OSError):
                    self._control.send(wire.encode_request(wire.RELEASE, 0, 0, group, ()))

    def close(self) -> None:
        """End the server and wait for it. Blocks for a moment."""
        with self._lock:
            self._end(kill=False)

    def _end(self, *, kill: bool) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            if kill:
                self._process.kill()
            try:
                self._process.wait(timeout=20.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Connection:
    """A stream to the server, in one event loop. Writes of one turn of the loop go out together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._loop = loop
        self._stream = stream
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._flush_due = False
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self.closed = False
        loop.add_reader(stream.fileno(), self._on_readable)

    async def request(self, flags: int, group: str, codes: tuple[str, ...]) -> Reply:
        """Run the last of `codes` after the others. Raises ShardLostError if the server ends first."""
        loop = asyncio.get_running_loop()
        self._last_id += 1
        request_id = self._last_id
        future: asyncio.Future[Reply] = loop.create_future()
        self._pending[request_id] = future
        self.write(wire.encode_request(wire.RUN, request_id, flags, group, codes))
        try:
            return await future
        except asyncio.CancelledError:
            if self._pending.pop(request_id, None) is not None and not self.closed:
                self.write(wire.encode_request(wire.CANCEL, request_id, 0, group, ()))
            raise

    def write(self, frame: bytes) -> None:
        """Send a frame with the others of this turn."""
        self._outgoing += frame
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self.closed:
            return
        try:
            sent = self._stream.send(self._outgoing)
            del self._outgoing[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.lose()
            return
        if self._outgoing:
            self._flush_due = True
            self._loop.add_writer(self._stream.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._stream.fileno())
        self._flush()

    def _on_readable(self) -> None:
        try:
            data = self._stream.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        self._incoming += data
        for frame in wire.split_frames(self._incoming):
            self._on_reply(frame)

    def _on_reply(self, frame: bytes) -> None:
        _, request_id, verdict, replayed, size, truncated, cpu_s, wall_s, live, evictions, odd = (
            wire.REPLY.unpack_from(frame)
        )
        future = self._pending.pop(request_id, None)
        if future is None or future.done():
            return
        end = wire.REPLY.size + size
        future.set_result(
            Reply(
                verdict,
                frame[wire.REPLY.size : end],
                frame[end:],
                truncated,
                replayed,
                cpu_s,
                wall_s,
                live,
                evictions,
                odd,
            )
        )

    def lose(self) -> None:
        """The server is gone: tell everyone who waits, and close."""
        pending = list(self._pending.values())
        self._pending.clear()
        self.drop()
        for future in pending:
            if not future.done():
                future.set_exception(ShardLostError())

    def drop(self) -> None:
        """Close the stream."""
        self.closed = True
        if not self._loop.is_closed() and self._stream.fileno() >= 0:
            self._loop.remove_reader(self._stream.fileno())
            self._loop.remove_writer(self._stream.fileno())
        self._stream.close()


def _package_root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _library_paths(libraries: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Folders for `sys.path`, and every path that step code may read: Python's own and the libraries'."""
    folders: list[str] = []
    readable = [os.path.realpath(sysconfig.get_path("stdlib")), os.path.join(sys.base_prefix, "lib")]
    for name in libraries:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise SandboxError(f"the library {name!r} that the sandbox should offer is not installed")
        is_package = spec.submodule_search_locations is not None
        source = Path(spec.origin).parent if is_package else Path(spec.origin)
        if str(source.parent) not in folders:
            folders.append(str(source.parent))
        readable.append(str(source))
        if (bundled := source.parent / f"{name}.libs").exists():
            readable.append(str(bundled))
    return folders, readable
