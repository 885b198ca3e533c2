"""An engine at work: requests come in through a queue, replies go out, in a thread of this process or a process of its own.

Whatever keeps `Engine`'s contract can be at work here: one that writes (`rstar.backends.engine`), one that scores. `main` is one replica: settings and then requests arrive as pickled frames on stdin from the parent that
started it, replies leave on stdout. The replica ends when stdin closes or its parent is gone, however the parent died.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeVar

from rstar.backends.loading import one_line
from rstar.backends.stats import Totals
from rstar.errors import ConfigError

RequestT = TypeVar("RequestT", contravariant=True)
AnswerT = TypeVar("AnswerT", covariant=True)
TotalsT = TypeVar("TotalsT", bound=Totals, covariant=True)


class Engine(Protocol[RequestT, AnswerT, TotalsT]):
    """Answers many requests at once, a step at a time. Owned by one thread."""

    @property
    def stats(self) -> TotalsT: ...

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def submit(self, job_id: int, request: RequestT) -> None: ...

    def cancel(self, job_id: int) -> None:
        """Forget a request, whose answer nobody waits for any more; one that is unknown or complete is fine."""
        ...

    def step(self) -> Sequence[tuple[int, AnswerT]]:
        """Go on with what was submitted; returns the requests that are now complete."""
        ...

    def reset(self) -> None:
        """Forget all requests and everything cached, after a step that raised. An engine that cannot go on after that raises
        in its turn, and so ends its replica."""
        ...


class ReplicaSettings(Protocol[RequestT, AnswerT, TotalsT]):
    """What an engine is built from, anywhere: it must survive pickling, as must requests, answers and totals."""

    @property
    def device(self) -> str:
        """A torch device, or a name of the engine's own; with "cpu" torch gets one thread."""
        ...

    def load(self) -> Engine[RequestT, AnswerT, TotalsT]:
        """Raises ConfigError with one line about what does not fit."""
        ...


Inbox = queue.SimpleQueue[tuple[int, Any] | None]
"""Requests with their job ids; None for a request takes it back, None alone ends the work."""


@dataclass(slots=True)
class Reply:
    """What a replica says: the first time that it is ready (or why not), then what is done or failed."""

    finished: Sequence[tuple[int, Any]] = ()
    failed: list[int] = field(default_factory=list)
    error: str = ""
    config_error: bool = False
    stats: Totals | None = None


def work(settings: ReplicaSettings[Any, Any, Totals], inbox: Inbox, reply: Callable[[Reply], None]) -> None:
    """Load an engine, say so, and serve the inbox until it holds None."""
    try:
        engine = settings.load()
    except ConfigError as error:
        reply(Reply(error=str(error), config_error=True))
        return
    except Exception as error:
        reply(Reply(error=f"the model did not load: {one_line(error)}"))
        return
    reply(Reply())
    _serve(engine, inbox, reply)


def _serve(engine: Engine[Any, Any, Totals], inbox: Inbox, reply: Callable[[Reply], None]) -> None:
    running: set[int] = set()
    while True:
        try:
            item = inbox.get(block=not engine.has_work)
            if item is None:
                return
            job_id, request = item
            if request is None:
                engine.cancel(job_id)
                running.discard(job_id)
            else:
                engine.submit(job_id, request)
                running.add(job_id)
            continue
        except queue.Empty:
            pass
        try:
            finished = engine.step()
        except (
            Exception
        ) as error:  # the model failed (out of memory, say): these requests fail, the replica lives
            engine.reset()
            reply(Reply(failed=sorted(running), error=one_line(error), stats=copy(engine.stats)))
            running.clear()
            continue
        if finished:
            running.difference_update(job_id for job_id, _ in finished)
            reply(Reply(finished=finished, stats=copy(engine.stats)))


def write_frame(stream: BinaryIO, message: object) -> None:
    """Send one message: its pickled length in 8 bytes, then the pickle."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def read_frame(stream: BinaryIO) -> Any:
    """The next message. Raises EOFError at the end of the stream, also in the middle of a message."""
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", header)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    """One replica over stdin and stdout."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the frames
    requests = sys.stdin.buffer
    settings: ReplicaSettings[Any, Any, Totals] = read_frame(requests)
    inbox: Inbox = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                inbox.put(read_frame(requests))
        except (EOFError, OSError):
            os._exit(0)

    def watch_parent() -> None:
        # A process forked from the parent may hold our stdin open, so the end of stdin is not enough.
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch_parent, daemon=True).start()
    threading.Thread(target=listen, daemon=True).start()
    if settings.device == "cpu":
        import torch

        torch.set_num_threads(1)
    status = 1
    try:
        work(settings, inbox, lambda reply: write_frame(replies, reply))
        status = 0
    except BrokenPipeError:
        status = 0
    except Exception:
        traceback.print_exc()
    os._exit(status)  # the listener still waits on stdin, which an ordinary exit would trip over
