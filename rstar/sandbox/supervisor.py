"""Watches over every interpreter of a shard: forks, reports, time limits, ends. Believes none of them.

It knows nothing of trees: what a step's end means is the `scheduler`'s business, which it tells through `Scheduler`'s
`settled`, `lost` and `gone`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Protocol

from rstar.sandbox import wire
from rstar.sandbox.events import Events
from rstar.sandbox.gate import ForkGate
from rstar.sandbox.processes import Process
from rstar.sandbox.states import Job

FORK_DEADLINE_S = 30.0
"""Seconds until a child must have said hello. Much: a loaded machine is slow. A parent that burns CPU instead is given
up earlier, after the CPU limit of a step."""
_MEDDLED = b"the step meddled with the sandbox's own socket"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one execution ended; `verdict` is an index of `wire.VERDICTS`, the texts are UTF-8."""

    verdict: int
    stdout: bytes = b""
    error: bytes = b""
    truncated: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Listener(Protocol):
    """Who is told."""

    def settled(self, job: Job, process: Process | None, outcome: Outcome) -> None:
        """A step has ended; its interpreter waits, or is gone (None)."""

    def lost(self, job: Job, reason: str) -> None:
        """A step could not be started for a reason that may pass."""

    def gone(self, process: Process) -> None:
        """This interpreter will never answer again."""


class Supervisor:
    """All interpreters by pid. `has_kernel_parts`: they were forked by raw clone and are this process' children."""

    def __init__(
        self,
        events: Events,
        listener: Listener,
        *,
        has_kernel_parts: bool,
        cpu_s: float,
        wall_s: float,
        max_output_chars: int,
    ) -> None:
        self._events = events
        self._listener = listener
        self._has_kernel_parts = has_kernel_parts
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._max_stdout_bytes = 4 * max_output_chars
        self._by_pid: dict[int, Process] = {}
        self._zygotes: set[Process] = set()
        self._pause_pid = 0
        self.active: set[Process] = set()
        """Processes that run a step or are being forked for one."""
        self._next_check = 0.0

    # Setting up

    def watch_children(self) -> None:
        """Handle SIGCHLD in the event loop."""
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        self._wakes = wakes
        self._events.watch(woken.fileno(), lambda: self._on_child_ended(woken))

    def adopt_zygote(self, zygote: Process, listener: int | None) -> None:
        """Watch a sealed zygote, and the gate of the forks under it."""
        self._by_pid[zygote.pid] = zygote
        self._zygotes.add(zygote)
        self._events.watch(zygote.socket.fileno(), lambda: self._on_process(zygote))
        if listener is not None:
            gate = ForkGate(listener)
            self._events.watch(listener, lambda: self._on_fork(gate))

    def adopt_pause_process(self, pid: int) -> None:
        """Its end would be the end of all."""
        self._pause_pid = pid

    def kill_everything(self) -> None:
        """SIGKILL to every interpreter that is known."""
        for process in self._by_pid.values():
            process.signal(signal.SIGKILL)

    # Steps

    def fork(self, job: Job, parent: Process, code: str) -> None:
        """Run a step in a fork of `parent`."""
        job.attempts += 1
        try:
            child = parent.fork(code.encode("utf-8", "surrogatepass"))
        except OSError as error:
            if parent in self._zygotes:
                raise
            self.kill(parent)
            self._listener.lost(job, f"its parent state does not answer ({error.strerror})")
            return
        child.job = job
        job.process = child
        self.active.add(child)
        self._next_check = min(self._next_check, child.started + self._cpu_s)
        self._events.watch(child.socket.fileno(), lambda: self._on_process(child))

    def run_in_place(self, job: Job, process: Process, code: str) -> None:
        """Run a step in `process` itself."""
        process.job = job
        job.process = process
        self.active.add(process)
        try:
            process.run_in_place(code.encode("utf-8", "surrogatepass"))
        except OSError as error:
            self.kill(process)
            self._listener.lost(job, f"its parent state does not answer ({error.strerror})")
            return
        self._schedule_check(process)

    def kill(self, process: Process) -> None:
        """End a process and forget its job; it is reaped when the kernel says so."""
        process.signal(signal.SIGKILL)
        parent, process.parent = process.parent, None
        if parent is not None:  # its fork is under way; what comes of it finds its socket closed and ends
            parent.pending_forks -= 1
            self._rest(parent)
        self._part_from(process)

    def _part_from(self, process: Process) -> None:
        self.active.discard(process)
        if process.job is not None:
            process.job.process = None
            process.job = None
        self._events.unwatch(process.socket)
        process.socket.close()
        self._listener.gone(process)

    # Messages of interpreters, untrusted

    def _on_fork(self, gate: ForkGate) -> None:
        question = gate.receive()
        if question is None:
            return
        request_id, pid = question
        process = self._by_pid.get(pid)
        allow = process is not None and process.fork_credit > 0
        if allow and process is not None:
            process.fork_credit -= 1
        gate.answer(request_id, allow=allow)

    def _on_process(self, process: Process) -> None:
        while (data := process.receive()) is not None:
            if not data:
                self._on_end(process)
                return
            if data == wire.HELLO and process.parent is not None and process.pid:
                self._on_hello(process)
            elif data[:1] == wire.DONE_MARK and process.job is not None and process.parent is None:
                self._on_done(process, data)
                return
            elif data[:1] == wire.NO_FORK and process.pending_forks and process.job is None:
                pass  # the child's socket ends too, and its job starts again
            else:
                self._on_nonsense(process)
                return

    def _on_hello(self, process: Process) -> None:
        parent = process.parent
        assert parent is not None
        process.parent = None
        process.cpu_at_start = 0.0
        self._by_pid[process.pid] = process
        process.started = time.monotonic()
        self._schedule_check(process)
        parent.pending_forks -= 1
        self._rest(parent)

    def _rest(self, process: Process) -> None:
        if not self._has_kernel_parts:
            return  # it may still hold the child's socket, whose end is all that tells of the child's death here
        if not process.pending_forks and process.job is None and process not in self._zygotes:
            process.signal(signal.SIGSTOP)

    def _on_nonsense(self, process: Process) -> None:
        if process in self._zygotes:
            raise RuntimeError("a zygote sent nonsense")
        job = process.job
        self.kill(process)
        if job is not None:
            self._listener.settled(job, None, Outcome(wire.ERROR, error=_MEDDLED))

    def _on_done(self, process: Process, data: bytes) -> None:
        try:
            _, verdict, truncated, size = wire.DONE.unpack_from(data)
            stdout = data[wire.DONE.size : wire.DONE.size + size]
            error = data[wire.DONE.size + size :][: 4 * wire.MAX_ERROR_CHARS]
            if verdict >= len(wire.VERDICTS) or len(stdout) > self._max_stdout_bytes:
                raise ValueError("out of range")
        except Exception:  # an untrusted message: whatever is wrong with it, it is nonsense
            self._on_nonsense(process)
            return
        self._settle(process, verdict, stdout, error, truncated)

    def _settle(
        self, process: Process, verdict: int, stdout: bytes = b"", error: bytes = b"", truncated: int = 0
    ) -> None:
        job = process.job
        assert job is not None
        cpu_s = max(0.0, process.cpu_s() - process.cpu_at_start)
        wall_s = time.monotonic() - process.dispatched
        self.active.discard(process)
        process.job = job.process = None
        if verdict != wire.OK:
            self.kill(process)
        outcome = Outcome(verdict, stdout, error, truncated, cpu_s, wall_s)
        self._listener.settled(job, process if verdict == wire.OK else None, outcome)

    # Ends

    def _on_end(self, process: Process) -> None:
        """Its socket has ended: it is dead, about to be, or has closed it."""
        if process in self._zygotes:
            raise RuntimeError("a zygote has ended")
        if process.parent is not None:
            self._on_stillbirth(process)
            return
        self._events.unwatch(process.socket)
        if not self._has_kernel_parts:
            process.signal(signal.SIGKILL)
            self._on_exit(process, None)
        elif not process.is_exiting():
            process.hung_up = True
            process.signal(signal.SIGKILL)

    def _on_stillbirth(self, child: Process) -> None:
        """A child's socket has ended before it said hello."""
        parent, job = child.parent, child.job
        assert parent is not None
        assert job is not None
        child.parent = None
        self._part_from(child)
        if parent.pid in self._by_pid and parent.pending_forks:
            parent.pending_forks -= 1
            self._rest(parent)
        self._sweep_strangers()
        self._listener.lost(job, "its process could not be forked")

    def _on_child_ended(self, woken: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        # A child may have said hello or reported and then ended: hear it out before its pid is given up.
        for process in [process for process in self.active if process.parent is not None]:
            self._on_process(process)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._by_pid.get(pid)
            if ended is not None:
                self._on_exit(ended, status)
            elif pid == self._pause_pid:
                raise RuntimeError("the first process of the process namespace has ended")

    def _on_exit(self, process: Process, status: int | None) -> None:
        if process in self._zygotes:
            raise RuntimeError(f"a zygote has ended (status {status})")
        self._by_pid.pop(process.pid, None)
        process.pid = 0  # reaped: never signal it again
        if process.job is not None and self._events.watches(process.socket):
            self._on_process(process)  # a last report
        job = process.job
        self._part_from(process)
        if job is not None:
            verdict, error = (wire.ERROR, _MEDDLED) if process.hung_up else _cause_of_death(status)
            wall_s = time.monotonic() - process.dispatched
            self._listener.settled(job, None, Outcome(verdict, error=error, wall_s=wall_s))

    def _sweep_strangers(self) -> None:
        """Kill children of this process that nobody accounts for: a fork that was let pass and hid."""
        me = str(os.getpid()).encode()
        for entry in filter(str.isdigit, os.listdir("/proc")):
            if int(entry) in self._by_pid or int(entry) == self._pause_pid:
                continue
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[1] == me:
                    os.kill(int(entry), signal.SIGKILL)

    # Limits

    def patience_s(self) -> float:
        """Seconds until `check_limits` must be called; -1 if nothing runs."""
        return max(0.0, self._next_check - time.monotonic()) if self.active else -1

    def _schedule_check(self, process: Process) -> None:
        self._next_check = min(self._next_check, process.started + min(self._cpu_s, self._wall_s))

    def check_limits(self) -> None:
        """End what has used up its time. Cheap when nothing is due."""
        now = time.monotonic()
        if not self.active or now < self._next_check:
            return
        self._next_check = now + 3600.0
        for process in list(self.active):
            left = (
                self._check_fork(process, now)
                if process.parent is not None
                else self._check_step(process, now)
            )
            self._next_check = min(self._next_check, now + max(left, 0.005))

    def _check_fork(self, child: Process, now: float) -> float:
        parent, job = child.parent, child.job
        assert parent is not None
        assert job is not None
        parents_cpu_s = parent.cpu_s() - child.cpu_at_start
        left = min(FORK_DEADLINE_S - (now - child.started), self._cpu_s - parents_cpu_s)
        if left > 0:
            return left
        self.kill(child)
        if parent in self._zygotes:
            raise RuntimeError("a zygote does not fork")
        self.kill(parent)
        self._sweep_strangers()
        error = b"the state of its parent step does not answer"
        self._listener.settled(job, None, Outcome(wire.KILLED, error=error))
        return FORK_DEADLINE_S

    def _check_step(self, process: Process, now: float) -> float:
        cpu_left = self._cpu_s - (process.cpu_s() - process.cpu_at_start)
        waited = process.waited_s() - process.waited_at_start
        wall_left = self._wall_s - (now - process.started - waited)
        if min(cpu_left, wall_left) > 0:
            return min(cpu_left, wall_left)
        used = (
            f"{self._cpu_s:g} s of CPU time" if cpu_left <= wall_left else f"{self._wall_s:g} s of wall time"
        )
        self._settle(process, wire.TIMEOUT, error=f"stopped after {used}".encode())
        return FORK_DEADLINE_S


def _cause_of_death(status: int | None) -> tuple[int, bytes]:
    if status is None:
        return wire.ERROR, b"the step ended its interpreter"
    if os.WIFEXITED(status):
        return wire.ERROR, f"the step ended its interpreter with status {os.WEXITSTATUS(status)}".encode()
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return wire.KILLED, b"killed from outside, perhaps because this machine is out of memory"
    return wire.ERROR, f"the step died of {signal.Signals(number).name}".encode()
