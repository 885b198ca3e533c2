"""One writer at a time: a lock that the operating system frees when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from pathlib import Path
from typing import Self

from rstar.errors import StoreError


class WriterLock:
    """Held from construction to `release`. Raises StoreError, naming the holder, if another writer has it.

    A forked child does not keep it: it closes its copy at once, so that a dead writer's children never block the next.
    """

    def __init__(self, path: Path, store: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (
                os.pread(self._descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            )
            self._close()
            raise StoreError(
                f"{store} is being written by {holder}; a store has one writer at a time"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        """Harmless if released already."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_forget_in_child)
