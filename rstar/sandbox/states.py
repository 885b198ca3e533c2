"""The trees of interpreter states that a shard knows: groups, nodes by their code, and who is paused where.

A node is the state after its path of codes. It can always be rebuilt from that path, so its processes are a cache.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rstar.sandbox.processes import Process

LIGHT, HEAVY = 0, 1
"""Which zygote a process descends from."""


class Node:
    """A state. `processes[flavour]` holds it live; `code` led to it from `parent` (the root has neither)."""

    __slots__ = (
        "building",
        "children",
        "code",
        "depth",
        "jobs",
        "parent",
        "processes",
        "stdout_hash",
        "waiting",
    )

    def __init__(self, parent: Node | None, code: str) -> None:
        self.parent = parent
        self.code = code
        self.depth: int = 0 if parent is None else parent.depth + 1
        """Edges from the root: the number of steps that led here."""
        self.children: dict[str, Node] = {}
        self.processes: list[Process | None] = [None, None]
        self.stdout_hash: bytes | None = None
        self.jobs: dict[str, Job] = {}
        """Jobs on this state that are queued or running, by their code."""
        self.building: list[Job | None] = [None, None]
        """The job that rebuilds this state now, by flavour."""
        self.waiting: list[Job] = []
        """Jobs that wait until it has."""

    def child(self, code: str) -> Node:
        """The node that `code` leads to; made if it is not known."""
        node = self.children.get(code)
        if node is None:
            node = self.children[code] = Node(self, code)
        return node

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


@dataclass(slots=True, eq=False)
class Group:
    """One search tree's states."""

    name: str
    root: Node = field(default_factory=lambda: Node(None, ""))
    queue: deque[Job] = field(default_factory=deque)
    released: bool = False
    live: set[Process] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Job:
    """One step to run on `node`, and everyone who asked for it."""

    group: Group
    node: Node
    code: str
    flavour: int
    keep: bool
    last: bool
    waiters: list[tuple[object, int]]
    """(connection, request id) of each request that shares this execution."""
    to_replay: deque[Node] = field(default_factory=deque)
    replayed: int = 0
    attempts: int = 0
    process: Process | None = None


class Paused:
    """The paused interpreters of a shard, least recently used first, under two budgets."""

    def __init__(self, max_snapshots: int, max_bytes: int) -> None:
        self._max_snapshots = max_snapshots
        self._max_bytes = max_bytes
        self._processes: OrderedDict[Process, int] = OrderedDict()
        self.bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._processes)

    def add(self, process: Process, num_bytes: int) -> None:
        """A process has become a snapshot of `num_bytes` private bytes."""
        self._processes[process] = num_bytes
        self.bytes += num_bytes

    def remove(self, process: Process) -> None:
        """It has ended or runs again in place. Unknown processes are fine."""
        self.bytes -= self._processes.pop(process, 0)

    def touch(self, process: Process) -> None:
        """It was used."""
        if process in self._processes:
            self._processes.move_to_end(process)

    def excess(self) -> Iterator[Process]:
        """Processes to end until the budgets hold: the oldest first, deterministic ones before the others, never one
        with a fork under way."""
        if not self._over():
            return
        for spare_pinned in (True, False):
            for process in list(self._processes):
                if process.pending_forks or (spare_pinned and process.pinned):
                    continue
                self.evictions += 1
                yield process
                if not self._over():
                    return

    def _over(self) -> bool:
        return len(self._processes) > self._max_snapshots or self.bytes > self._max_bytes


def mentions_libraries(libraries: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the name of a library in code as a word: more than the imports, never less, and safe on hostile text."""
    return re.compile(r"\b(?:" + "|".join(map(re.escape, libraries)) + r")\b" if libraries else r"(?!)")


def stdout_hash(stdout: bytes, truncated: int) -> bytes:
    """What a replay's output is compared by."""
    return hashlib.blake2b(stdout, digest_size=8, salt=truncated.to_bytes(8, "little")).digest()
