"""Engines as this process sees them: a thread here, or a process of their own with one CPU thread.

Both take requests without blocking and report from a thread of theirs. What this file does not cover: who gets which
request, and what happens when a replica dies (`pool`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from rstar.backends.stats import Totals
from rstar.backends.worker import Inbox, ReplicaSettings, Reply, read_frame, work, write_frame

OnReply = Callable[[Reply], None]
OnDeath = Callable[[str], None]


class Replica(Protocol):
    """One engine. Replies and at most one death are reported from another thread."""

    def submit(self, job_id: int, request: object) -> None:
        """Hand over a request, or with None take it back."""
        ...

    def close(self) -> None:
        """End it and wait for that; blocks for at most a few seconds. No report comes afterwards."""
        ...


class ThreadReplica:
    """An engine in a thread of this process."""

    def __init__(
        self, settings: ReplicaSettings[Any, Any, Totals], on_reply: OnReply, on_death: OnDeath
    ) -> None:
        self._inbox: Inbox = queue.SimpleQueue()
        self._closed = False

        def report(reply: Reply) -> None:
            if not self._closed:
                on_reply(reply)

        def run() -> None:
            try:
                work(settings, self._inbox, report)
            finally:
                if not self._closed:
                    on_death("its thread ended")

        self._thread = threading.Thread(target=run, name="rstar-engine", daemon=True)
        self._thread.start()

    def submit(self, job_id: int, request: object) -> None:
        self._inbox.put((job_id, request))

    def close(self) -> None:
        self._closed = True
        self._inbox.put(None)
        self._thread.join(timeout=10.0)


class ProcessReplica:
    """An engine in a process of its own (started afresh, not forked), with one thread for computing.

    `environment` is what the process has over this one's.
    """

    def __init__(
        self,
        settings: ReplicaSettings[Any, Any, Totals],
        on_reply: OnReply,
        on_death: OnDeath,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **environment,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from rstar.backends.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
        )
        self._closed = False
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._outbox.put(settings)
        self._on_reply, self._on_death = on_reply, on_death
        self._threads = [
            threading.Thread(target=target, name=f"rstar-replica-{name}", daemon=True)
            for target, name in ((self._write, "writer"), (self._read, "reader"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def submit(self, job_id: int, request: object) -> None:
        self._outbox.put((job_id, request))

    def close(self) -> None:
        self._closed = True
        self._process.kill()  # it holds nothing that needs saving
        self._outbox.put(None)
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=10.0)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _write(self) -> None:
        assert self._process.stdin is not None
        while (message := self._outbox.get()) is not None:
            try:
                write_frame(self._process.stdin, message)  # type: ignore[arg-type]
            except (BrokenPipeError, ValueError):
                return  # the reader notices the death

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                reply: Reply = read_frame(self._process.stdout)  # type: ignore[arg-type]
                if not self._closed:
                    self._on_reply(reply)
        except (EOFError, OSError, ValueError):
            pass
        code = self._process.wait()
        if not self._closed:
            self._on_death(f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}")
