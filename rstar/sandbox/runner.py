"""What runs inside an interpreter of the sandbox: take an order, fork or go on in place, run a step, report.

This code shares its process with step code, so nothing here is trusted by the server: a step can at most forge the
report about itself. What a step can reach (builtins, `os`, `sys`) is held privately here, so that a step which
replaces it spoils no report by accident.
"""

from __future__ import annotations

import array
import builtins
import errno
import io
import os
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Never

from rstar.sandbox import wire

# Functions take their builtins from here: a step that sets `builtins.len = None` does not reach them.
globals()["__builtins__"] = dict(vars(builtins))

CONTROL_FD = 3
"""Every interpreter's end of its socket to the server."""
_BLOCKED_ERRNOS = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENXIO, errno.EXDEV})
"""There are no files for a step, so a file that does not exist is an attempt at one that does."""
_NO_THREAD = "can't start new thread"
_DESCRIPTOR_SIZE = array.array("i").itemsize
_exit, _dup2, _close = os._exit, os.dup2, os.close


class StepOutput(io.TextIOBase):
    """stdout of a step: keeps the first `kept` characters, counts the rest, and calls `on_flood` past `hard`.

    The raw descriptors lead to /dev/null: what a step writes there is lost and harms nobody.
    """

    def __init__(self, kept: int, hard: int, on_flood: Callable[[], object]) -> None:
        self._parts: list[str] = []
        self._room = self._kept = kept
        self._left = self._hard = hard
        self._on_flood = on_flood

    encoding = "utf-8"
    errors = "backslashreplace"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        size = len(text)
        self._left -= size
        if self._room > 0:
            self._parts.append(text[: self._room])
            self._room -= size
        if self._left < 0:
            self._on_flood()
        return size

    def close(self) -> None:
        """A later step prints again."""

    @property
    def buffer(self) -> StepBytes:
        """For `sys.stdout.buffer.write(b"...")`."""
        return StepBytes(self)

    def take(self) -> tuple[str, int]:
        """The text since the last call, cut, and the number of characters cut."""
        text = "".join(self._parts)
        truncated = self._hard - self._left - len(text)
        self._parts.clear()
        self._room, self._left = self._kept, self._hard
        return text, truncated


class StepBytes(io.RawIOBase):
    """The binary side of `StepOutput`."""

    def __init__(self, text: StepOutput) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "replace"))
        return len(raw)


class Runner:
    """The loop of one interpreter. `fork` returns 0 in the child, or a negative errno."""

    def __init__(self, *, kept: int, hard: int, fork: Callable[[], int], after_fork: Callable[[], object]):
        self._control = socket.socket(fileno=CONTROL_FD)
        self._fork = fork
        self._after_fork = after_fork
        self._buffer = bytearray(wire.MAX_PACKET)
        self.stdout = StepOutput(kept, hard, self._flooded)
        self.stderr = StepOutput(0, hard, self._flooded)
        self.namespace: dict[str, Any] = {}

    def open_namespace(self) -> None:
        """Make a fresh `__main__` whose globals all steps of a trajectory share, and redirect the streams."""
        module = ModuleType("__main__")
        module.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = module
        self.namespace = module.__dict__
        sys.stdout = sys.__stdout__ = self.stdout  # type: ignore[assignment, misc]
        sys.stderr = sys.__stderr__ = self.stderr  # type: ignore[assignment, misc]

    def serve(self) -> Never:
        """Take orders until the server closes the socket."""
        views = [memoryview(self._buffer)]
        room = socket.CMSG_SPACE(_DESCRIPTOR_SIZE)
        while True:
            size, ancillary, _, _ = self._control.recvmsg_into(views, room)
            if size == 0:
                _exit(0)
            if self._buffer[:1] == wire.FORK:
                descriptor = array.array("i", ancillary[0][2])[0]
                pid = self._fork()
                if pid != 0:
                    _close(descriptor)
                    if pid < 0:
                        self._control.send(wire.NO_FORK + str(-pid).encode())
                    continue
                _dup2(descriptor, CONTROL_FD)
                _close(descriptor)
                self._after_fork()
                self._control.send(wire.HELLO)
            code = str(views[0][1:size], "utf-8", "surrogatepass")
            error = ""
            try:
                verdict, error = self.run(code)
                self._report(verdict, error)
            except MemoryError:
                self.namespace.clear()  # what the step holds left no room; nothing runs after it
                self._report(wire.MEMORY, error or "MemoryError")

    def run(self, code: str) -> tuple[int, str]:
        """Run one step: its verdict, and the error in one line."""
        try:
            exec(compile(code, "<step>", "exec", dont_inherit=True), self.namespace)
        except MemoryError as error:
            return wire.MEMORY, _describe_in_little_memory(error)
        except BaseException as error:
            return classify(error), describe(error)
        return wire.OK, ""

    def _report(self, verdict: int, error: str) -> None:
        self.stderr.take()
        text, truncated = self.stdout.take()
        stdout = text.encode("utf-8", "backslashreplace")
        header = wire.DONE.pack(wire.DONE_MARK, verdict, truncated, len(stdout))
        self._control.send(header + stdout + error.encode("utf-8", "backslashreplace"))

    def _flooded(self) -> Never:
        # Reported from inside write(): step code may swallow any exception that it could be told by.
        self._report(wire.OUTPUT_LIMIT, "")
        _exit(1)


def classify(error: BaseException) -> int:
    """The verdict that an exception means. Its text matters only for the one error Python gives no type of its own."""
    if isinstance(error, MemoryError):
        return wire.MEMORY
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return wire.MEMORY
        cause: BaseException | None = error
        for _ in range(10):
            if isinstance(cause, OSError) and (
                cause.errno in _BLOCKED_ERRNOS or type(cause).__name__ == "gaierror"
            ):
                return wire.BLOCKED
            cause = cause and (cause.__cause__ or cause.__context__)
    if type(error) is RuntimeError and error.args == (_NO_THREAD,):
        return wire.BLOCKED
    return wire.ERROR


def _describe_in_little_memory(error: MemoryError) -> str:
    try:
        return describe(error)
    except MemoryError:
        return "MemoryError"


def describe(error: BaseException) -> str:
    """Exception type and message in one line, as the last line of a traceback has it."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = "<its text could not be made>"
    return (f"{name}: {text}" if text else name)[: wire.MAX_ERROR_CHARS]
