"""The server's end of the fork gate: an interpreter forks when the server has told it to, and never else."""

from __future__ import annotations

import errno
import fcntl
import struct


class ForkGate:
    """The server's end of the gate: each fork waits in the kernel until `answer` was called.

    The man page warns that letting a call continue is no security policy when its arguments are pointers that change
    or when filters are stacked: the argument that was checked is a register, and installing filters is denied.
    """

    _RECEIVE, _SEND = 0xC0502100, 0xC0182101
    _CONTINUE = 1

    def __init__(self, listener: int) -> None:
        self.listener = listener
        self._answer = struct.Struct("<QqiI")
        self._question = struct.Struct("<QI")

    def receive(self) -> tuple[int, int] | None:
        """(id, pid of the process that wants to fork), or None when the process has died meanwhile."""
        question = bytearray(80)
        try:
            fcntl.ioctl(self.listener, self._RECEIVE, question)
        except OSError:
            return None
        request_id, pid = self._question.unpack_from(question)
        return request_id, pid

    def answer(self, request_id: int, *, allow: bool) -> None:
        """Let the fork go on, or fail with EPERM. A process that has died meanwhile is no error."""
        reply = self._answer.pack(request_id, 0, 0 if allow else -errno.EPERM, self._CONTINUE if allow else 0)
        try:
            fcntl.ioctl(self.listener, self._SEND, bytearray(reply))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
