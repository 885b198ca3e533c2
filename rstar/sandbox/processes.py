"""Interpreters as the server sees them: started, fed with code, stopped, measured, killed."""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import Any

from rstar.sandbox import kernel, wire
from rstar.sandbox.states import Group, Job, Node

PAGE = resource.getpagesize()
_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR_SIZE = array.array("i").itemsize

BOOTSTRAP = """\
import sys, types
for name in ("rstar", "rstar.sandbox"):
    module = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
    sys.modules[name] = module
from rstar.sandbox.{module} import main
main(sys.argv[2:])
"""
"""Runs one module of this package in a fresh interpreter without importing the packages above it."""

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
"""The whole environment of server and zygotes."""


def command(module: str, root: str, *arguments: str) -> list[str]:
    """The command line that runs `rstar.sandbox.<module>`; `root` is the folder that holds the package."""
    return [sys.executable, "-P", "-s", "-S", "-c", BOOTSTRAP.format(module=module), root, *arguments]


class Process:
    """One interpreter: a zygote, a running step, or a paused state.

    Every one is a direct child of the server (the kernel vouches for its exit status, and its pid cannot be used
    again before the server has reaped it).
    """

    __slots__ = (
        "cpu_at_start", "dispatched", "fork_credit", "group", "hung_up", "job", "node", "parent", "pending_forks", "pid", "pinned",
        "socket", "started", "waited_at_start",
    )  # fmt: skip

    def __init__(self, control: socket.socket, *, pid: int = 0) -> None:
        self.socket = control
        self.pid = pid
        """0 until the child has said hello."""
        self.job: Job | None = None
        self.node: Node | None = None
        """The state it holds while it is paused."""
        self.group: Group | None = None
        """The group of that state."""
        self.parent: Process | None = None
        """While it starts: the process that was told to fork it."""
        self.pending_forks = 0
        self.fork_credit = 0
        """Forks that the gate will let pass."""
        self.hung_up = False
        """It closed its socket and went on."""
        self.pinned = False
        """Its state cannot be replayed faithfully: evict it last."""
        self.dispatched = self.started = 0.0
        """When its step was ordered, and when its interpreter took it up (a fork later); the limit counts from then."""
        self.cpu_at_start = 0.0
        """CPU seconds used before this step: by itself, or, while it starts, by its parent."""
        self.waited_at_start = 0.0

    def fork(self, code: bytes) -> Process:
        """Tell this process to fork a child that runs `code`. Raises OSError if it does not take the message."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _descriptor(theirs))]
        try:
            self.socket.sendmsg([wire.FORK, code], rights)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.fork_credit += 1
        self.pending_forks += 1
        self.signal(signal.SIGCONT)
        child = Process(ours)
        child.parent = self
        child.cpu_at_start = self.cpu_s()
        child.dispatched = child.started = time.monotonic()
        return child

    def run_in_place(self, code: bytes) -> None:
        """Tell this process to run `code` itself. Raises OSError if it does not take the message."""
        self.start_clocks()
        self.socket.send(wire.IN_PLACE + code)
        self.signal(signal.SIGCONT)

    def start_clocks(self) -> None:
        """A step begins now."""
        self.dispatched = self.started = time.monotonic()
        self.cpu_at_start = self.cpu_s()
        self.waited_at_start = self.waited_s()

    def receive(self) -> bytes | None:
        """One message, b"" at the end, None if there is none now. A child's first message carries its pid."""
        try:
            if self.pid:
                return self.socket.recv(wire.MAX_PACKET)
            data, ancillary, _, _ = self.socket.recvmsg(wire.MAX_PACKET, socket.CMSG_SPACE(_CREDENTIALS.size))
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        for _, kind, payload in ancillary:
            if kind == socket.SCM_CREDENTIALS and data == wire.HELLO:
                self.pid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
            elif kind == socket.SCM_RIGHTS:
                received = array.array("i", payload[: len(payload) // _DESCRIPTOR_SIZE * _DESCRIPTOR_SIZE])
                for descriptor in received:
                    os.close(descriptor)
        return data

    def signal(self, number: int) -> None:
        """Send a signal; a process that is gone is fine."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def cpu_s(self) -> float:
        """CPU seconds it has used in all; 0.0 when it is gone."""
        if not self.pid:
            return 0.0
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def waited_s(self) -> float:
        """Seconds it was ready to run and had no core; 0.0 where the kernel does not count them."""
        try:
            with open(f"/proc/{self.pid}/schedstat", "rb") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def memory_bytes(self, template: int) -> int:
        """An upper estimate of the memory that is its own: pages faulted in, or grown beyond its zygote's size."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0
        faults, resident = int(fields[7]), int(fields[21])
        return max(faults * PAGE, resident * PAGE - template)

    def is_exiting(self) -> bool:
        """Whether it ends by itself or has ended."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return True
        return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & 0x4)  # PF_EXITING

    def resident_bytes(self) -> int:
        """Bytes of memory it has in use, shared ones included."""
        with open(f"/proc/{self.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE


def _descriptor(item: socket.socket) -> Any:
    return array.array("i", [item.fileno()])


def spawn_zygote(root: str, settings: dict[str, Any]) -> Process:
    """Start a zygote with an exec of its own, its end of the socket as descriptor 3."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = command("zygote", root, json.dumps(settings))
    pid = os.posix_spawn(
        arguments[0],
        arguments,
        ENVIRONMENT,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        setsigmask=(),
    )
    theirs.close()
    return Process(ours, pid=pid)


def receive_seal(zygote: Process) -> tuple[dict[str, Any], int | None]:
    """Wait until a zygote is sealed: its report, and the listener of its fork gate.

    Raises RuntimeError if it has ended instead.
    """
    data, ancillary, _, _ = zygote.socket.recvmsg(wire.MAX_PACKET, socket.CMSG_SPACE(_DESCRIPTOR_SIZE))
    if not data:
        raise RuntimeError("the zygote ended while it was starting")
    listener = array.array("i", ancillary[0][2])[0] if ancillary else None
    zygote.socket.setblocking(False)
    report: dict[str, Any] = json.loads(data)
    return report, listener


def spawn_pause_process() -> int:
    """The first process of a process namespace: does nothing; when it ends, the kernel ends all others in there.

    It ends with the server. It also reaps what is orphaned inside.
    """
    read_end, _write_end_of_the_server = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read_end)
        return pid
    kernel.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.dup2(read_end, 0)
    os.closerange(1, 4096)
    while True:
        if not os.read(0, 1):  # the end of the pipe: the server is gone
            os._exit(0)
