"""Worker processes that can be killed: comparisons go in from any thread, statuses come out as futures.

Each worker has a thread that starts it, writes one request, waits for the answer until the deadline, and kills and
replaces it when the deadline passes. No signals are installed in this process. Workers start when there is work, up
to `num_workers`, and end with `close`, with this process, and with the pool object.
What this file does not cover: what a status means for a pair of answers (`grader`).
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar.errors import GradingError

START_S = 120.0
"""Wall time that a worker may take to import computer algebra on a busy machine."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Status:
    """What became of a pair: `equal`, `different`, `unread`, `timeout`, `memory` or `crash`."""

    status: str
    detail: str = ""


@dataclass(slots=True)
class _Job:
    a: str
    b: str
    future: Future[Status]


class WorkerPool:
    """See the module. `deadline_s` is wall time for one request, `cpu_limit_s` the worker's own alarm below it."""

    def __init__(self, *, num_workers: int, cpu_limit_s: float, deadline_s: float, memory_bytes: int) -> None:
        self._num_workers = num_workers
        self._deadline_s = deadline_s
        self._arguments = (str(cpu_limit_s), str(memory_bytes))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._workers: set[_Worker] = set()
        self._queued = 0
        self._idle = 0
        self._closed = False
        self._pid = os.getpid()

    def submit(self, a: str, b: str) -> Future[Status]:
        """Compare two normalised answers. The future ends in a Status or in a GradingError, at the latest when every
        request before it has used up its deadline twice."""
        if os.getpid() != self._pid:
            raise GradingError("a grader does not survive a fork; make one in each process")
        job = _Job(a, b, Future())
        with self._lock:
            if self._closed:
                raise GradingError("the grader is closed")
            self._jobs.put(job)
            self._queued += 1
            if self._queued > self._idle and len(self._threads) < self._num_workers:
                thread = threading.Thread(target=self._serve, name="grading-worker", daemon=True)
                self._threads.append(thread)
                thread.start()
        return job.future

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        with self._lock:
            return sorted(worker.process.pid for worker in self._workers)

    def close(self) -> None:
        """End all workers now; what is still waiting gets a GradingError. Idempotent."""
        with self._lock:
            self._closed = True
            threads, workers = list(self._threads), list(self._workers)
        for worker in workers:
            worker.kill()
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()
        with suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    _fail(job, GradingError("the grader was closed"))

    def _serve(self) -> None:
        worker: _Worker | None = None
        try:
            while True:
                with self._lock:
                    self._idle += 1
                found, worker = self._serve_next(worker)
                if not found:
                    return
        finally:
            if worker is not None:
                self._retire(worker)

    def _serve_next(self, worker: _Worker | None) -> tuple[bool, _Worker | None]:
        """Wait for a job and do it. A call of its own, so that a waiting thread holds nothing of the last job, whose
        callbacks know the grader."""
        job = self._jobs.get()
        with self._lock:
            self._idle -= 1
            self._queued -= job is not None
        if job is None:
            return False, worker
        if job.future.set_running_or_notify_cancel():
            try:
                worker, status = self._run(worker, job)
                job.future.set_result(status)
            except Exception as error:  # whatever it is, nobody may wait for ever
                if worker is not None:
                    self._retire(worker)
                worker = None
                failure = (
                    error
                    if isinstance(error, GradingError)
                    else GradingError(f"the grader failed: {error!r}")
                )
                job.future.set_exception(failure)
        return True, worker

    def _run(self, worker: _Worker | None, job: _Job) -> tuple[_Worker | None, Status]:
        """One request; a worker that dies of it is replaced once. If the second dies too, a third must grade
        something harmless, or it is the grader that fails."""
        for _ in range(2):
            worker = worker or self._start()
            answer = worker.ask(job.a, job.b, self._deadline_s)
            if answer is not None and answer.status not in ("late", "memory"):
                return worker, answer
            self._retire(worker)
            worker = None
            if answer is not None:
                late = Status("timeout", f"stopped after {self._deadline_s:g} s")
                return None, late if answer.status == "late" else answer
            if self._closed:
                raise GradingError("the grader was closed")
        worker = self._start()
        harmless = worker.ask("x+1", "1+x", self._deadline_s)
        if harmless is None or harmless.status != "equal":
            self._retire(worker)
            raise GradingError(
                "a grading worker died twice on one pair, and a fresh one cannot grade x+1 = 1+x"
            )
        return worker, Status("crash", "two workers died of this pair")

    def _start(self) -> _Worker:
        try:
            worker = _Worker(self._arguments)
        except OSError as error:
            raise GradingError(f"a grading worker did not start: {error}") from error
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        problem = "the grader was closed" if closed else worker.wait_until_ready()
        if problem:
            self._retire(worker)
            raise GradingError(f"a grading worker did not start: {problem}")
        return worker

    def _retire(self, worker: _Worker) -> None:
        worker.close()
        with self._lock:
            self._workers.discard(worker)


class _Worker:
    """One process and its pipes; used by one thread, killed from any."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        path = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", ""))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rstar.grading.worker", str(os.getpid()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": path, "PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "")},
            start_new_session=True,
        )
        self._buffer = b""

    def wait_until_ready(self) -> str:
        """Empty when the worker is ready, else one line on what is wrong."""
        answer = self._read_line(time.monotonic() + START_S)
        if answer is not None and "ready" in answer:
            return ""
        if self.process.poll() is None:
            return f"no answer within {START_S:g} s"
        assert self.process.stderr is not None
        lines = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self.process.returncode}"

    def ask(self, a: str, b: str, deadline_s: float) -> Status | None:
        """The worker's answer; `late` if none came in time (the worker is to be killed); None if it died."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + deadline_s
        try:
            self.process.stdin.write(json.dumps({"a": a, "b": b}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return None
        answer = self._read_line(deadline)
        if answer is None:
            return Status("late") if time.monotonic() >= deadline else None
        return Status(answer["status"], answer.get("detail", ""))

    def _read_line(self, deadline: float) -> dict[str, Any] | None:
        """The next line as JSON; None at the deadline or at the end of the process."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                self.process.wait()
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def kill(self) -> None:
        """Kill the process; its thread sees the end of the pipe and cleans up."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        self.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _fail(job: _Job, error: GradingError) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
