"""The shard server: one trusted, single-threaded process that owns every interpreter of a shard.

This file starts it and speaks with the pool; `scheduler` decides what runs, `supervisor` watches what runs. When the
pool ends, the server ends; when the server ends, the kernel ends all that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any, Never

from rstar.sandbox import kernel, probes, wire
from rstar.sandbox.events import Events
from rstar.sandbox.processes import Process, receive_seal, spawn_pause_process, spawn_zygote
from rstar.sandbox.scheduler import Scheduler
from rstar.sandbox.seal import map_own_ids
from rstar.sandbox.states import HEAVY, LIGHT, Job, Node, Paused
from rstar.sandbox.supervisor import Outcome, Supervisor


class Connection:
    """One stream to the pool (one per event loop that uses it)."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.closed = False
        self.waits_to_write = False


class Server:
    """A shard's loop. `settings` is what `shard.Shard` wrote; `control` is the socket to the pool."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._control = control
        self._without: list[str] = settings["without"]
        self._has_kernel_parts = kernel.IS_FULL_PATH and "clone" not in self._without
        self._layers: dict[str, str] = {}
        self._flushing: set[Connection] = set()
        self._events = Events()
        self._scheduler = Scheduler(
            self._reply,
            Paused(_room_for_snapshots(settings["max_snapshots"]), settings["snapshot_bytes"]),
            max_running=settings["max_running"],
            libraries=tuple(settings["libraries"]),
        )
        self._supervisor = self._scheduler.supervisor = Supervisor(
            self._events,
            self._scheduler,
            has_kernel_parts=self._has_kernel_parts,
            cpu_s=settings["cpu_s"],
            wall_s=settings["wall_s"],
            max_output_chars=settings["max_output_chars"],
        )

    # Starting

    def start(self) -> None:
        """Start the zygotes, probe their isolation, report to the pool. Raises RuntimeError or OSError."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        kernel.ignore_stopped_children()
        self._supervisor.watch_children()
        self._attempt("addresses", kernel.disable_address_randomization)
        self._layers["clone"] = "" if self._has_kernel_parts else "needs x86_64 Linux"
        if not self._has_kernel_parts:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._attempt("pid", self._enter_process_namespace)
        self._start_zygotes()
        self._report_probes()
        self._events.watch(self._control.fileno(), self._on_control)

    def watch_pool(self) -> None:
        """End with the pool's process, even if a fork of it holds the control socket open."""
        pool = os.pidfd_open(self._settings["pool_pid"])
        if os.getppid() != self._settings["pool_pid"]:
            os._exit(0)
        self._events.watch(pool, self.end)

    def _attempt(self, layer: str, apply: Callable[[], None]) -> None:
        self._layers[layer] = ""
        try:
            if layer in self._without:
                raise OSError("switched off")
            apply()
        except OSError as error:
            self._layers[layer] = error.strerror or str(error)

    def _enter_process_namespace(self) -> None:
        if os.geteuid() == 0:
            kernel.unshare(kernel.CLONE_NEWPID)
        else:
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
            map_own_ids(uid, gid)
        self._supervisor.adopt_pause_process(spawn_pause_process())

    def _start_zygotes(self) -> None:
        libraries: list[str] = self._settings["libraries"]
        light = self._spawn_zygote([])
        heavy = self._spawn_zygote(libraries) if libraries else light
        for zygote in {light: None, heavy: None}:
            report, listener = receive_seal(zygote)
            if report["missing_modules"]:
                raise RuntimeError(f"cannot import {', '.join(sorted(report['missing_modules']))}")
            for layer, reason in report["layers"].items():
                self._layers[layer] = self._layers.get(layer) or reason
            zygote.node = Node(None, "")
            self._supervisor.adopt_zygote(zygote, listener)
        self._scheduler.zygotes = (light, heavy)
        self._scheduler.template_bytes = (light.resident_bytes(), heavy.resident_bytes())

    def _spawn_zygote(self, libraries: list[str]) -> Process:
        return spawn_zygote(self._settings["root"], {**self._settings, "libraries": libraries})

    def _report_probes(self) -> None:
        answers: list[Outcome] = []
        code = probes.program(
            fork_flags=int(kernel.FORK_FLAGS),
            memory_mb=self._settings["memory_mb"],
            is_full=self._has_kernel_parts,
        )
        flavours = (LIGHT, HEAVY) if self._settings["libraries"] else (LIGHT,)
        for flavour in flavours:
            self._scheduler.submit_probe((answers, 0), code, flavour)
        while len(answers) < len(flavours):
            self._turn()
        for answer in answers:
            if answer.verdict != wire.OK:
                raise RuntimeError(f"the probe of the isolation layers failed: {answer.error.decode()}")
        findings = [probes.read_findings(answer.stdout.decode()) for answer in answers]
        self._control.send(json.dumps({"layers": self._layers, "findings": findings}).encode())

    # The loop

    def serve(self) -> Never:
        """Work until the pool is gone."""
        while True:
            self._turn()

    def _turn(self) -> None:
        self._scheduler.start_jobs()
        self._flush()
        self._events.turn(self._supervisor.patience_s())
        self._supervisor.check_limits()

    def end(self) -> Never:
        """Kill everything and exit."""
        self._supervisor.kill_everything()
        # With a process namespace its first process takes along whatever is left; without one, the death signal does.
        os._exit(0)

    # The pool

    def _on_control(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 65_536, 1)
        if not data:
            self.end()
        if descriptors:
            stream = socket.socket(fileno=descriptors[0])
            stream.setblocking(False)
            connection = Connection(stream)
            self._events.watch(stream.fileno(), lambda: self._on_requests(connection))
        else:
            self._take(None, data)

    def _on_requests(self, connection: Connection) -> None:
        try:
            data = connection.stream.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.incoming += data
        for frame in wire.split_frames(connection.incoming):
            self._take(connection, frame)

    def _take(self, connection: Connection | None, frame: bytes) -> None:
        request = wire.decode_request(frame)
        waiter = (connection, request.request_id)
        if request.operation == wire.RELEASE:
            self._scheduler.release(request.group)
        elif request.operation == wire.CANCEL:
            self._scheduler.cancel(waiter, request.group)
        elif connection is not None:
            self._scheduler.submit(waiter, request)

    def _close(self, connection: Connection) -> None:
        connection.closed = True
        self._flushing.discard(connection)
        self._events.unwatch(connection.stream)
        connection.stream.close()
        self._scheduler.forget_connection(connection)

    def _reply(self, job: Job, outcome: Outcome) -> None:
        for target, request_id in job.waiters:
            if isinstance(target, list):  # the probes' own
                target.append(outcome)
            elif isinstance(target, Connection) and not target.closed:
                target.outgoing += wire.REPLY.pack(
                    wire.REPLY.size - wire.LENGTH.size + len(outcome.stdout) + len(outcome.error),
                    request_id,
                    outcome.verdict,
                    job.replayed,
                    len(outcome.stdout),
                    outcome.truncated,
                    outcome.cpu_s,
                    outcome.wall_s,
                    len(self._scheduler.paused),
                    self._scheduler.paused.evictions,
                    self._scheduler.nondeterministic_steps,
                )
                target.outgoing += outcome.stdout
                target.outgoing += outcome.error
                self._flushing.add(target)

    def _flush(self) -> None:
        for connection in list(self._flushing):
            with contextlib.suppress(BlockingIOError, InterruptedError):
                try:
                    sent = connection.stream.send(connection.outgoing)
                except (BrokenPipeError, ConnectionResetError):
                    self._close(connection)
                    continue
                del connection.outgoing[:sent]
            if not connection.outgoing:
                self._flushing.discard(connection)
            if bool(connection.outgoing) != connection.waits_to_write:
                connection.waits_to_write = not connection.waits_to_write
                self._events.also_writable(connection.stream.fileno(), connection.waits_to_write)


def _room_for_snapshots(wanted: int) -> int:
    """How many snapshots the limit on open files allows (each has a socket), after raising it as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 256
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - 256))


def main(arguments: list[str]) -> Never:
    """Serve one shard. `arguments`: settings in JSON, number of the inherited control socket."""
    control = socket.socket(fileno=int(arguments[1]))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = Server(control, json.loads(arguments[0]))
        server.watch_pool()
        server.start()
    except (RuntimeError, OSError) as error:
        control.send(json.dumps({"failure": str(error)}).encode())
        os._exit(1)
    server.serve()
