"""Turns requests into executions: which state a step runs on, whose turn it is, what must be replayed, what is kept."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable

from rstar.sandbox import wire
from rstar.sandbox.processes import Process
from rstar.sandbox.states import HEAVY, LIGHT, Group, Job, Node, Paused, mentions_libraries, stdout_hash
from rstar.sandbox.supervisor import Outcome, Supervisor

MAX_ATTEMPTS = 3
"""How often a step is started again after its parent's interpreter was lost (the machine ran out of memory)."""
MAX_GROUPS = 4096
"""Groups remembered; beyond it, the oldest without live states are forgotten (and replayed without a comparison)."""

Reply = Callable[[Job, Outcome], None]


class Scheduler:
    """All groups of a shard. `supervisor` and `zygotes` are set once those exist."""

    supervisor: Supervisor
    zygotes: tuple[Process, Process]
    template_bytes: tuple[int, int]

    def __init__(self, reply: Reply, paused: Paused, *, max_running: int, libraries: tuple[str, ...]) -> None:
        self._reply = reply
        self.paused = paused
        self._max_running = max_running
        self._needs_libraries = mentions_libraries(libraries).search
        self._groups: dict[str, Group] = {}
        self._ready: deque[Group] = deque()
        self.nondeterministic_steps = 0

    # Requests

    def submit(self, waiter: tuple[object, int], request: wire.Request) -> None:
        """Queue a step, or join one that is equal and not finished."""
        group = self._groups.get(request.group)
        if group is None:
            group = self._groups[request.group] = Group(request.group)
            if len(self._groups) > MAX_GROUPS:
                self._forget_old_groups()
        node = group.root
        for code in request.codes[:-1]:
            node = node.child(code)
        code = request.codes[-1]
        keep, last = bool(request.flags & wire.KEEP_STATE), bool(request.flags & wire.LAST_CHILD)
        job = node.jobs.get(code)
        if job is not None:
            job.keep = job.keep or keep
            job.waiters.append(waiter)
            return
        flavour = HEAVY if any(map(self._needs_libraries, request.codes)) else LIGHT
        job = node.jobs[code] = Job(group, node, code, flavour, keep=keep, last=last, waiters=[waiter])
        self._queue(job)

    def submit_probe(self, waiter: tuple[object, int], code: str, flavour: int) -> None:
        """Queue a step in a group of its own that leaves nothing behind."""
        group = Group("")
        job = group.root.jobs[code] = Job(
            group, group.root, code, flavour, keep=False, last=False, waiters=[waiter]
        )
        self._queue(job)

    def release(self, name: str) -> None:
        """Forget a group; what runs for it still answers."""
        group = self._groups.pop(name, None)
        if group is None:
            return
        group.released = True
        for process in list(group.live):
            self.supervisor.kill(process)

    def cancel(self, waiter: tuple[object, int], name: str) -> None:
        """A request is no longer wanted: its step is not started, or killed if nobody else waits for it."""
        group = self._groups.get(name)
        if group is None:
            return
        running = [process.job for process in self.supervisor.active if process.job]
        for job in [*group.queue, *(job for job in running if job.group is group)]:
            if waiter not in job.waiters:
                continue
            job.waiters.remove(waiter)
            if not job.waiters and job in group.queue:
                group.queue.remove(job)
                job.node.jobs.pop(job.code, None)
            elif not job.waiters and job.process is not None and not job.to_replay:
                self.supervisor.kill(job.process)
                self._finish(job, Outcome(wire.KILLED, error=b"cancelled"))
            return

    def forget_connection(self, connection: object) -> None:
        """Nobody reads this connection's answers any more."""
        for group in self._groups.values():
            for job in list(group.queue):
                job.waiters = [waiter for waiter in job.waiters if waiter[0] is not connection]
                if not job.waiters:
                    group.queue.remove(job)
                    job.node.jobs.pop(job.code, None)

    def _forget_old_groups(self) -> None:
        busy = {process.job.group for process in self.supervisor.active if process.job}
        for name, group in list(self._groups.items())[: MAX_GROUPS // 4]:
            if not group.live and not group.queue and not group.root.jobs and group not in busy:
                del self._groups[name]

    # Turns

    def start_jobs(self) -> None:
        """Fill the free slots, one job of each waiting group in turn; then evict what is over the budget."""
        while self._ready and len(self.supervisor.active) < self._max_running:
            group = self._ready.popleft()
            if not group.queue:
                continue
            job = group.queue.popleft()
            if group.queue:
                self._ready.append(group)
            self._start(job)
        for process in self.paused.excess():
            self.supervisor.kill(process)

    def _queue(self, job: Job, *, first: bool = False) -> None:
        if not job.group.queue:
            self._ready.append(job.group)
        if first:
            job.group.queue.appendleft(job)
        else:
            job.group.queue.append(job)

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
            self.supervisor.fork(job, process, job.to_replay[0].code)
            return
        is_free = process.pending_forks == 0 and len(node.jobs) == 1 and node.parent is not None
        if job.last and is_free:
            self._detach(process)
            self.supervisor.run_in_place(job, process, job.code)
        else:
            self.paused.touch(process)
            self.supervisor.fork(job, process, job.code)

    def _nearest(self, node: Node, flavour: int) -> tuple[Node, Process]:
        for ancestor in node.path():
            process = ancestor.processes[flavour]
            if process is not None:
                return ancestor, process
            if ancestor.parent is None:
                return ancestor, self.zygotes[flavour]
        raise AssertionError("a path ends at a root")

    # Ends of steps (supervisor.Listener)

    def settled(self, job: Job, process: Process | None, outcome: Outcome) -> None:
        """A step has ended: keep or end its interpreter, go on replaying, or answer."""
        if job.to_replay:
            self._on_replayed(job, process, outcome)
            return
        if process is not None:
            child = job.node.child(job.code)
            if child.stdout_hash is None:
                child.stdout_hash = stdout_hash(outcome.stdout, outcome.truncated)
            if job.keep and not job.group.released and child.processes[job.flavour] is None:
                self._attach(job.group, child, job.flavour, process)
            else:
                self.supervisor.kill(process)
        self._finish(job, outcome)

    def _on_replayed(self, job: Job, process: Process | None, outcome: Outcome) -> None:
        node = job.to_replay[0]
        if process is None:
            reason = f"replay of step {node.depth} of its history ended with {wire.VERDICTS[outcome.verdict].value}: "
            failure = Outcome(wire.KILLED, error=reason.encode() + outcome.error)
            waiting, job.node.waiting = job.node.waiting, []
            for failed in (job, *waiting):
                self._finish(failed, failure)
            return
        digest = stdout_hash(outcome.stdout, outcome.truncated)
        if node.stdout_hash is None:
            node.stdout_hash = digest
        elif node.stdout_hash != digest:
            self.nondeterministic_steps += 1
            process.pinned = True
        job.replayed += 1
        job.to_replay.popleft()
        if job.to_replay:
            self.supervisor.run_in_place(job, process, job.to_replay[0].code)
            return
        if job.group.released or job.node.processes[job.flavour] is not None:
            self.supervisor.run_in_place(job, process, job.code)
        else:
            self._attach(job.group, job.node, job.flavour, process)
            self._start(job)  # at once: the state that was rebuilt for it must not be evicted before
        self._stop_building(job)

    def lost(self, job: Job, reason: str) -> None:
        """The step could not be run for a reason that may pass: start again from a state that is live."""
        self._stop_building(job)
        job.process = None
        if job.attempts >= MAX_ATTEMPTS:
            self._finish(job, Outcome(wire.KILLED, error=f"the step could not be run: {reason}".encode()))
        else:
            self._queue(job, first=True)

    def gone(self, process: Process) -> None:
        """An interpreter has ended: its state is no longer live."""
        self._detach(process)

    def _stop_building(self, job: Job) -> None:
        job.to_replay.clear()
        if job.node.building[job.flavour] is job:
            job.node.building[job.flavour] = None
            waiting, job.node.waiting = job.node.waiting, []
            for other in waiting:
                self._queue(other)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._stop_building(job)
        job.node.jobs.pop(job.code, None)
        self._reply(job, outcome)

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
