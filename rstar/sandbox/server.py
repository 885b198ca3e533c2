"""The shard server: one trusted, single-threaded process that owns every interpreter of a shard.

It forks states, gates those forks, bounds steps by time, evicts and rebuilds states, reaps, and never believes what
an interpreter says about anything but its own step. When its pool ends, it ends; when it ends, the kernel ends all
that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Never

from rstar.sandbox import kernel, probes, wire
from rstar.sandbox.processes import (
    Process,
    receive_seal,
    spawn_pause_process,
    spawn_zygote,
)
from rstar.sandbox.seal import map_own_ids
from rstar.sandbox.seccomp import ForkGate
from rstar.sandbox.states import HEAVY, LIGHT, Group, Job, Node, Paused, mentions_libraries, stdout_hash

FORK_DEADLINE_S = 30.0
"""Seconds until a child must have said hello. Much: a loaded machine is slow, and a state that does not answer is
either stopped or hostile."""
MAX_ATTEMPTS = 3
"""How often a step is started again after its parent's interpreter was lost (the machine ran out of memory)."""
MAX_GROUPS = 4096
"""Groups remembered; beyond it, the oldest without live states are forgotten (and replayed without a comparison)."""

_MEDDLED = b"the step meddled with the sandbox's own socket"


class Connection:
    """One stream to the pool (one per event loop that uses it)."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.closed = False
        self.polled_for_write = False


class Server:
    """All of a shard's state. `settings` is what `shard.Shard` wrote."""

    def __init__(self, control: socket.socket, root: str, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.root = root
        self.control = control
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.paused = Paused(settings["max_snapshots"], settings["snapshot_bytes"])
        self.groups: dict[str, Group] = {}
        self.ready: deque[Group] = deque()
        self.by_pid: dict[int, Process] = {}
        self.active: set[Process] = set()
        self.flushing: set[Connection] = set()
        self.nondeterministic = 0
        self.next_check = 0.0
        self.zygotes: list[Process] = []
        self.template_bytes: list[int] = []
        self.layers: dict[str, str] = {}
        self.without: list[str] = settings["without"]
        self.has_kernel_parts = kernel.IS_FULL_PATH and "clone" not in self.without
        self.needs_libraries = mentions_libraries(tuple(settings["libraries"])).search

    # Starting

    def start(self) -> None:
        """Start the zygotes, probe them, report to the pool."""
        self._raise_descriptor_limit()
        self._prepare_processes()
        libraries: list[list[str]] = [[], self.settings["libraries"]]
        for flavour, names in enumerate(libraries):
            if flavour == HEAVY and not names:
                self.zygotes.append(self.zygotes[LIGHT])
                continue
            self.zygotes.append(spawn_zygote(self.root, {**self.settings, "libraries": names}))
        missing: list[str] = []
        for zygote in list(dict.fromkeys(self.zygotes)):
            report, listener = receive_seal(zygote)
            missing += report["missing_modules"]
            for name, reason in report["layers"].items():
                self.layers[name] = self.layers.get(name) or reason
            zygote.node = Node(None, "")
            self.by_pid[zygote.pid] = zygote
            self._watch(zygote.socket, lambda zygote=zygote: self._on_process(zygote))  # type: ignore[misc]
            if listener is not None:
                self._watch_gate(ForkGate(listener))
        self.template_bytes = [zygote.resident_bytes() for zygote in self.zygotes]
        if missing:
            raise RuntimeError(f"these modules cannot be imported: {', '.join(sorted(set(missing)))}")
        self._report_probes()
        self._watch(self.control, self._on_control)

    def _raise_descriptor_limit(self) -> None:
        wanted = self.settings["max_snapshots"] + 256
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256
        self.paused = Paused(min(self.settings["max_snapshots"], room), self.settings["snapshot_bytes"])

    def _prepare_processes(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        kernel.ignore_stopped_children()
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        self._wakes = wakes
        self._watch(woken, lambda: self._on_child_ended(woken))
        self._attempt("addresses", kernel.disable_address_randomization)
        self.layers["clone"] = "" if self.has_kernel_parts else "needs x86_64 Linux"
        if not self.has_kernel_parts:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._attempt("pid", self._enter_process_namespace)

    def _attempt(self, layer: str, apply: Callable[[], None]) -> None:
        try:
            if layer in self.without:
                raise OSError("switched off")
            apply()
        except OSError as error:
            self.layers[layer] = error.strerror or str(error)
        else:
            self.layers[layer] = ""

    def _enter_process_namespace(self) -> None:
        if os.geteuid() == 0:
            kernel.unshare(kernel.CLONE_NEWPID)
        else:
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
            map_own_ids(uid, gid)
        self._pause_pid = spawn_pause_process()

    def _report_probes(self) -> None:
        answers: list[tuple[int, bytes, bytes]] = []
        code = probes.program(
            fork_flags=int(kernel.FORK_FLAGS),
            memory_mb=self.settings["memory_mb"],
            is_full=self.has_kernel_parts,
        )
        for flavour in {LIGHT, HEAVY} if len(set(self.zygotes)) == 2 else {LIGHT}:
            group = Group("")
            job = Job(group, group.root, code, flavour, keep=False, last=False, waiters=[(answers, 0)])
            group.root.jobs[code] = job
            group.queue.append(job)
            self.ready.append(group)
        expected = len(self.ready)
        while len(answers) < expected:
            self._turn()
        findings = []
        for verdict, stdout, error in answers:
            if verdict != wire.OK:
                raise RuntimeError(f"the probe of the isolation layers failed: {error.decode()}")
            findings.append(probes.read_findings(stdout.decode()))
        self.control.send(json.dumps({"layers": self.layers, "findings": findings}).encode())

    # The loop

    def serve(self) -> Never:
        """Work until the pool is gone."""
        while True:
            self._turn()

    def _turn(self) -> None:
        self._start_jobs()
        for process in self.paused.excess():
            self._kill(process)
        self._flush()
        timeout = max(0.0, self.next_check - time.monotonic()) if self.active else -1
        for descriptor, _ in self.poll.poll(timeout):
            handler = self.handlers.get(descriptor)
            if handler is not None:
                handler()
        if self.active and time.monotonic() >= self.next_check:
            self._check_limits()

    def _watch(self, item: socket.socket, handler: Callable[[], None]) -> None:
        self.handlers[item.fileno()] = handler
        self.poll.register(item.fileno(), select.EPOLLIN)

    def _watch_gate(self, gate: ForkGate) -> None:
        def on_fork() -> None:
            question = gate.receive()
            if question is None:
                return
            request_id, pid = question
            process = self.by_pid.get(pid)
            allow = process is not None and process.fork_credit > 0
            if allow and process is not None:
                process.fork_credit -= 1
            gate.answer(request_id, allow=allow)

        self.handlers[gate.listener] = on_fork
        self.poll.register(gate.listener, select.EPOLLIN)

    def _unwatch(self, item: socket.socket) -> None:
        descriptor = item.fileno()
        if descriptor >= 0 and self.handlers.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)
        item.close()

    # The pool's side

    def _on_control(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self.control, 65_536, 1)
        if not data:
            self.end()
        if descriptors:
            stream = socket.socket(fileno=descriptors[0])
            stream.setblocking(False)
            connection = Connection(stream)
            self._watch(stream, lambda: self._on_requests(connection))
        else:
            self._take(None, data)

    def end(self) -> Never:
        """Kill everything and exit."""
        for process in list(self.by_pid.values()):
            process.signal(signal.SIGKILL)
        # With a process namespace its first process takes along whatever is left; without one, the death signal does.
        os._exit(0)

    def _on_requests(self, connection: Connection) -> None:
        try:
            data = connection.stream.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close_connection(connection)
            return
        connection.incoming += data
        for frame in wire.split_frames(connection.incoming):
            self._take(connection, frame)

    def _close_connection(self, connection: Connection) -> None:
        connection.closed = True
        self.flushing.discard(connection)
        self._unwatch(connection.stream)
        for group in self.groups.values():
            for job in list(group.queue):
                job.waiters = [waiter for waiter in job.waiters if waiter[0] is not connection]
                if not job.waiters:
                    group.queue.remove(job)
                    job.node.jobs.pop(job.code, None)

    def _take(self, connection: Connection | None, frame: bytes) -> None:
        request = wire.decode_request(frame)
        if request.operation == wire.RELEASE:
            self._release(request.group)
        elif request.operation == wire.CANCEL:
            self._cancel(connection, request.group, request.request_id)
        elif connection is not None:
            self._enqueue(connection, request)

    def _enqueue(self, connection: Connection, request: wire.Request) -> None:
        group = self.groups.get(request.group)
        if group is None:
            group = self.groups[request.group] = Group(request.group)
            if len(self.groups) > MAX_GROUPS:
                self._forget_old_groups()
        node = group.root
        for code in request.codes[:-1]:
            node = node.child(code)
        code = request.codes[-1]
        keep = bool(request.flags & wire.KEEP_STATE)
        waiter = (connection, request.request_id)
        job = node.jobs.get(code)
        if job is not None:
            job.keep = job.keep or keep
            job.waiters.append(waiter)
            return
        heavy = any(map(self.needs_libraries, request.codes))
        last = bool(request.flags & wire.LAST_CHILD)
        job = Job(group, node, code, HEAVY if heavy else LIGHT, keep=keep, last=last, waiters=[waiter])
        node.jobs[code] = job
        self._queue(job)

    def _queue(self, job: Job, *, first: bool = False) -> None:
        group = job.group
        if not group.queue:
            self.ready.append(group)
        if first:
            group.queue.appendleft(job)
        else:
            group.queue.append(job)

    def _forget_old_groups(self) -> None:
        for name, group in list(self.groups.items())[: MAX_GROUPS // 4]:
            if (
                not group.live
                and not group.queue
                and not any(p.job and p.job.group is group for p in self.active)
            ):
                del self.groups[name]

    def _release(self, name: str) -> None:
        group = self.groups.pop(name, None)
        if group is None:
            return
        group.released = True
        for process in list(group.live):
            self._kill(process)

    def _cancel(self, connection: Connection | None, name: str, request_id: int) -> None:
        group = self.groups.get(name)
        if group is None:
            return
        running = [process.job for process in self.active if process.job and process.job.group is group]
        for job in [*group.queue, *running]:
            if (connection, request_id) not in job.waiters:
                continue
            job.waiters.remove((connection, request_id))
            if job.waiters:
                return
            if job in group.queue:
                group.queue.remove(job)
                job.node.jobs.pop(job.code, None)
            elif job.process is not None and not job.to_replay:
                process = job.process
                self._kill(process)
                self._finish(job, wire.KILLED, error=b"cancelled")
            return

    def _reply(
        self,
        job: Job,
        verdict: int,
        stdout: bytes,
        error: bytes,
        truncated: int,
        cpu_s: float,
        wall_s: float,
    ) -> None:
        for target, request_id in job.waiters:
            if not isinstance(target, Connection):
                assert isinstance(target, list)
                target.append((verdict, stdout, error))
                continue
            if target.closed:
                continue
            target.outgoing += wire.REPLY.pack(
                wire.REPLY.size - wire.LENGTH.size + len(stdout) + len(error),
                request_id,
                verdict,
                job.replayed,
                len(stdout),
                truncated,
                cpu_s,
                wall_s,
                len(self.paused),
                self.paused.evictions,
                self.nondeterministic,
            )
            target.outgoing += stdout
            target.outgoing += error
            self.flushing.add(target)

    def _flush(self) -> None:
        for connection in list(self.flushing):
            try:
                sent = connection.stream.send(connection.outgoing)
                del connection.outgoing[:sent]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._close_connection(connection)
                continue
            if not connection.outgoing:
                self.flushing.discard(connection)
            wants_write = bool(connection.outgoing)
            if wants_write != connection.polled_for_write:
                connection.polled_for_write = wants_write
                events = select.EPOLLIN | (select.EPOLLOUT if wants_write else 0)
                self.poll.modify(connection.stream.fileno(), events)

    # Running steps

    def _start_jobs(self) -> None:
        while self.ready and len(self.active) < self.settings["max_running"]:
            group = self.ready.popleft()
            if not group.queue:
                continue
            job = group.queue.popleft()
            if group.queue:
                self.ready.append(group)
            self._start(job)

    def _start(self, job: Job) -> None:
        """Run the job's code on its state if that is live, else begin to rebuild the state."""
        node, flavour = job.node, job.flavour
        source, process = self._nearest(node, flavour)
        if source is not node:
            if node.building[flavour] is not None:
                node.waiting.append(job)
                return
            node.building[flavour] = job
            missing = [ancestor for ancestor in node.path() if ancestor.depth > source.depth]
            job.to_replay = deque(reversed(missing))
            self._fork(job, process, job.to_replay[0].code)
            return
        is_free = process.pending_forks == 0 and len(node.jobs) == 1 and node.parent is not None
        if job.last and is_free:
            self._detach(process)
            self._go_on_in_place(job, process, job.code)
        else:
            self.paused.touch(process)
            self._fork(job, process, job.code)

    def _nearest(self, node: Node, flavour: int) -> tuple[Node, Process]:
        for ancestor in node.path():
            process = ancestor.processes[flavour]
            if process is not None:
                return ancestor, process
            if ancestor.parent is None:
                return ancestor, self.zygotes[flavour]
        raise AssertionError("a path ends at a root")

    def _fork(self, job: Job, parent: Process, code: str) -> None:
        job.attempts += 1
        try:
            child = parent.fork(code.encode("utf-8", "surrogatepass"))
        except OSError as error:
            if parent in self.zygotes:
                raise
            self._kill(parent)
            self._retry(job, f"its parent state does not answer ({error.strerror})")
            return
        child.job = job
        job.process = child
        self.active.add(child)
        self.next_check = min(self.next_check, child.started + self.settings["cpu_s"])
        self._watch(child.socket, lambda: self._on_process(child))

    def _go_on_in_place(self, job: Job, process: Process, code: str) -> None:
        process.job = job
        job.process = process
        self.active.add(process)
        try:
            process.run_in_place(code.encode("utf-8", "surrogatepass"))
        except OSError as error:
            self._kill(process)
            self._retry(job, f"its parent state does not answer ({error.strerror})")
            return
        self._schedule_check(process)

    def _retry(self, job: Job, reason: str) -> None:
        """The step could not be run for a reason that may pass: start again from a state that is live."""
        self._stop_building(job)
        job.process = None
        if job.attempts >= MAX_ATTEMPTS:
            self._finish(job, wire.KILLED, error=f"the step could not be run: {reason}".encode())
        else:
            self._queue(job, first=True)

    def _stop_building(self, job: Job) -> None:
        job.to_replay.clear()
        if job.node.building[job.flavour] is job:
            job.node.building[job.flavour] = None
            waiting, job.node.waiting = job.node.waiting, []
            for other in waiting:
                self._queue(other)

    def _on_process(self, process: Process) -> None:
        """Messages of an interpreter, untrusted."""
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
        self.by_pid[process.pid] = process
        process.started = time.monotonic()
        self._schedule_check(process)
        parent.pending_forks -= 1
        self._rest(parent)

    def _rest(self, process: Process) -> None:
        if not self.has_kernel_parts:
            return  # it may still hold the child's socket, whose end is all that tells of the child's death here
        if not process.pending_forks and process.job is None and process not in self.zygotes:
            process.signal(signal.SIGSTOP)

    def _on_nonsense(self, process: Process) -> None:
        job = process.job
        self._kill(process)
        if job is not None:
            self._finish(job, wire.ERROR, error=_MEDDLED)

    def _on_done(self, process: Process, data: bytes) -> None:
        job = process.job
        assert job is not None
        try:
            _, verdict, truncated, size = wire.DONE.unpack_from(data)
            stdout = data[wire.DONE.size : wire.DONE.size + size]
            error = data[wire.DONE.size + size :][: 4 * wire.MAX_ERROR_CHARS]
            if verdict >= len(wire.VERDICTS) or len(stdout) > 4 * self.settings["max_output_chars"]:
                raise ValueError("out of range")
        except Exception:
            self._on_nonsense(process)
            return
        self._settle(process, verdict, stdout, error, truncated)

    def _settle(
        self, process: Process, verdict: int, stdout: bytes = b"", error: bytes = b"", truncated: int = 0
    ) -> None:
        """A step has ended: keep or kill its process, go on replaying, or answer."""
        job = process.job
        assert job is not None
        cpu_s = max(0.0, process.cpu_s() - process.cpu_at_start)
        wall_s = time.monotonic() - process.dispatched
        self.active.discard(process)
        process.job = job.process = None
        if job.to_replay:
            self._on_replayed(job, process, verdict, stdout, error, truncated)
            return
        if verdict == wire.OK:
            child = job.node.child(job.code)
            if child.stdout_hash is None:
                child.stdout_hash = stdout_hash(stdout, truncated)
            if job.keep and not job.group.released and child.processes[job.flavour] is None:
                self._attach(job.group, child, job.flavour, process)
            else:
                self._kill(process)
        else:
            self._kill(process)
        self._finish(job, verdict, stdout, error, truncated, cpu_s, wall_s)

    def _on_replayed(
        self, job: Job, process: Process, verdict: int, stdout: bytes, error: bytes, truncated: int
    ) -> None:
        node = job.to_replay[0]
        if verdict != wire.OK:
            self._kill(process)
            reason = f"replay of step {node.depth} of its history ended with {wire.VERDICTS[verdict].value}: ".encode()
            waiting, job.node.waiting = job.node.waiting, []
            job.to_replay.clear()
            job.node.building[job.flavour] = None
            for failed in (job, *waiting):
                self._finish(failed, wire.KILLED, error=reason + error)
            return
        digest = stdout_hash(stdout, truncated)
        if node.stdout_hash is None:
            node.stdout_hash = digest
        elif node.stdout_hash != digest:
            self.nondeterministic += 1
            process.pinned = True
        job.replayed += 1
        job.to_replay.popleft()
        if job.to_replay:
            self._go_on_in_place(job, process, job.to_replay[0].code)
            return
        if job.group.released or job.node.processes[job.flavour] is not None:
            self._go_on_in_place(job, process, job.code)
        else:
            self._attach(job.group, job.node, job.flavour, process)
            self._start(job)  # at once: the state that was rebuilt for it must not be evicted before
        self._stop_building(job)

    def _finish(
        self,
        job: Job,
        verdict: int,
        stdout: bytes = b"",
        error: bytes = b"",
        truncated: int = 0,
        cpu_s: float = 0.0,
        wall_s: float = 0.0,
    ) -> None:
        self._stop_building(job)
        job.node.jobs.pop(job.code, None)
        self._reply(job, verdict, stdout, error, truncated, cpu_s, wall_s)

    # Paused states

    def _attach(self, group: Group, node: Node, flavour: int, process: Process) -> None:
        process.signal(signal.SIGSTOP)
        process.node = node
        process.group = group
        node.processes[flavour] = process
        group.live.add(process)
        self.paused.add(process, process.memory_bytes(self.template_bytes[flavour]))

    def _detach(self, process: Process) -> None:
        node, process.node = process.node, None
        self.paused.remove(process)
        if node is not None:
            node.processes = [None if held is process else held for held in node.processes]
        if process.group is not None:
            process.group.live.discard(process)
            process.group = None

    def _kill(self, process: Process) -> None:
        """End a process and forget it; it is reaped when the kernel says so."""
        process.signal(signal.SIGKILL)
        self._detach(process)
        self.active.discard(process)
        process.job = None
        self._unwatch(process.socket)

    # Ends

    def _on_end(self, process: Process) -> None:
        """Its socket has ended: it is dead or about to be."""
        if process in self.zygotes:
            raise RuntimeError("a zygote has ended")
        if process.parent is not None:  # it never said hello
            parent, job = process.parent, process.job
            process.parent = None
            self._unwatch(process.socket)
            self.active.discard(process)
            process.job = None
            if parent.pid in self.by_pid and parent.pending_forks:
                parent.pending_forks -= 1
                self._rest(parent)
            self._sweep_strangers()
            assert job is not None
            self._retry(job, "its process could not be forked")
            return
        self.handlers.pop(process.socket.fileno())
        self.poll.unregister(process.socket.fileno())
        if not self.has_kernel_parts:
            process.signal(signal.SIGKILL)
            self._on_exit(process, None)
        elif not process.is_exiting():
            process.hung_up = True
            process.signal(signal.SIGKILL)

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
            process_of_pid = self.by_pid.pop(pid, None)
            if process_of_pid is not None:
                self._on_exit(process_of_pid, status)
            elif pid == getattr(self, "_pause_pid", None):
                raise RuntimeError("the first process of the process namespace has ended")

    def _on_exit(self, process: Process, status: int | None) -> None:
        if process in self.zygotes:
            raise RuntimeError(f"a zygote has ended (status {status})")
        self.by_pid.pop(process.pid, None)
        process.pid = 0  # reaped: never signal it again
        if process.job is not None and process.socket.fileno() in self.handlers:
            self._on_process(process)  # a last report
        job = process.job
        if job is None:
            self._kill(process)
            return
        self.active.discard(process)
        if process.hung_up:
            verdict, error = wire.ERROR, _MEDDLED
        else:
            verdict, error = _cause_of_death(status)
        dispatched = process.dispatched
        to_replay = bool(job.to_replay)
        process.job = job.process = None
        self._unwatch(process.socket)
        if to_replay:
            self._on_replayed(job, process, verdict, b"", error, 0)
        else:
            self._finish(job, verdict, error=error, wall_s=time.monotonic() - dispatched)

    def _sweep_strangers(self) -> None:
        """Kill children of this process that nobody accounts for: a fork that was let pass and hid."""
        known = {*self.by_pid, getattr(self, "_pause_pid", 0)}
        me = str(os.getpid()).encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in known:
                continue
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[1] == me:
                    os.kill(int(entry), signal.SIGKILL)

    # Limits

    def _schedule_check(self, process: Process) -> None:
        soonest = min(self.settings["cpu_s"], self.settings["wall_s"])
        self.next_check = min(self.next_check, process.started + soonest)

    def _check_limits(self) -> None:
        now = time.monotonic()
        self.next_check = now + 3600.0
        for process in list(self.active):
            elapsed = now - process.started
            if process.parent is not None:
                used = process.parent.cpu_s() - process.cpu_at_start
                left = min(FORK_DEADLINE_S - elapsed, self.settings["cpu_s"] - used)
                if left <= 0:
                    self._give_up_fork(process)
                    continue
            else:
                cpu_left = self.settings["cpu_s"] - (process.cpu_s() - process.cpu_at_start)
                waited = process.waited_s() - process.waited_at_start
                wall_left = self.settings["wall_s"] - (elapsed - waited)
                left = min(cpu_left, wall_left)
                if left <= 0:
                    limit, unit = (
                        (self.settings["cpu_s"], "CPU time")
                        if cpu_left <= wall_left
                        else (self.settings["wall_s"], "wall time")
                    )
                    self._settle(process, wire.TIMEOUT, error=f"stopped after {limit:g} s of {unit}".encode())
                    continue
            self.next_check = min(self.next_check, now + max(left, 0.005))

    def _give_up_fork(self, child: Process) -> None:
        parent, job = child.parent, child.job
        assert parent is not None
        assert job is not None
        child.parent = None
        self._kill(child)
        if parent in self.zygotes:
            raise RuntimeError("a zygote does not fork")
        self._kill(parent)
        self._sweep_strangers()
        self._stop_building(job)
        self._finish(job, wire.KILLED, error=b"the state of its parent step does not answer")


def _cause_of_death(status: int | None) -> tuple[int, bytes]:
    if status is None:
        return wire.ERROR, b"the step ended its interpreter"
    if os.WIFEXITED(status):
        return wire.ERROR, f"the step ended its interpreter with status {os.WEXITSTATUS(status)}".encode()
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return wire.KILLED, b"killed from outside, perhaps because this machine is out of memory"
    return wire.ERROR, f"the step died of {signal.Signals(number).name}".encode()


def main(arguments: list[str]) -> Never:
    """Serve one shard: its control socket to the pool is inherited."""
    control = socket.socket(fileno=int(arguments[1]))
    control.set_inheritable(False)
    settings = json.loads(arguments[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = Server(control, settings["root"], settings)
    pool = os.pidfd_open(settings["pool_pid"])
    if os.getppid() != settings["pool_pid"]:
        os._exit(0)
    # The end of the control socket says that the pool is gone, unless a fork of its process holds the other end.
    server.handlers[pool] = server.end
    server.poll.register(pool, select.EPOLLIN)
    try:
        server.start()
    except (RuntimeError, OSError) as error:
        control.send(json.dumps({"failure": f"{error}"}).encode())
        os._exit(1)
    server.serve()
