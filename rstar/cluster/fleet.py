"""The workers of a cluster: one per node or group of GPUs, started again where they die, and on nodes that join.

A fleet tells what happens to its workers (`events`); it does not know what they work on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from rstar.cluster.connection import ClusterNode, last_line, nodes_of, on_node, own_error
from rstar.cluster.worker import SearchWorker
from rstar.errors import BackendError, ConfigError, RstarError
from rstar.searcher import SearchSetup

LOG = logging.getLogger(__name__)

POLL_S = 2.0
"""Between looks for nodes that joined or left."""
MAX_LOSSES = 3
"""Workers that may die on one node without having finished a tree; then the node is left alone [ours]."""
OTHERS_WITHIN_S = 10.0
"""How long the first worker waits for the others before a search begins: it would take everything there is."""
NOTICE_S = 60.0
"""Without any worker, until the log says so."""
CLOSED_WITHIN_S = 10.0
PASSED_ON = re.compile(r"(HF|OMP|TOKENIZERS|TORCH\w*|TRANSFORMERS|VLLM)_.*|.*_API_KEY")
"""Names of environment variables that workers get from this process: what engines and servers are told by."""
SPARE_CALLS = 16
"""Calls that a worker answers beside the trees that it searches."""


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """A worker that is ready. `name` is its node's host and a running number: a new one after each death."""

    name: str
    node: ClusterNode
    actor: Any


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is ready for trees."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Refused:
    """A node will have no worker, and why."""

    node: ClusterNode
    error: RstarError
    left: bool
    """Whether any other may."""


class Fleet:
    """Starts, watches and ends the workers of one search."""

    def __init__(self, ray: Any, address: str, setup: SearchSetup) -> None:
        self._ray = ray
        self._address = address
        self._setup = setup
        self.events: asyncio.Queue[Joined | Refused] = asyncio.Queue()
        self._workers: dict[str, Worker] = {}
        self._starting: Counter[str] = Counter()
        """Workers under way, by node."""
        self._losses: Counter[str] = Counter()
        self._candidates: set[str] = set()
        """Nodes that are there and have room for a worker."""
        self._refused: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0

    async def open(self) -> None:
        """Start workers on all nodes; returns when they are ready, or the first is and the others take their time.

        Raises ConfigError if no node can have a worker or one cannot open what it should, BackendError if all die.
        """
        nodes = await asyncio.to_thread(nodes_of, self._ray)
        self._check_gpus(nodes)
        self._start_missing(nodes)
        self._spawn(self._watch())
        clock = asyncio.get_running_loop().time
        deadline, had_none = clock() + NOTICE_S, True
        while not self._workers or self._starting.total():
            try:
                async with asyncio.timeout_at(deadline):
                    event = await self.events.get()
            except TimeoutError:
                if self._workers:
                    return
                LOG.warning(
                    "no worker has started yet; `ray status` says whether their nodes are busy with something else"
                )
                deadline = clock() + NOTICE_S
                continue
            if isinstance(event, Joined):
                if had_none:
                    deadline, had_none = clock() + OTHERS_WITHIN_S, False
            elif event.left and isinstance(event.error, BackendError):  # one node's trouble
                LOG.warning("no worker on %s: %s", event.node.host, event.error)
            else:
                raise event.error

    @property
    def workers(self) -> dict[str, Worker]:
        """Those that are ready, by name."""
        return self._workers

    def praise(self, worker: Worker) -> None:
        """The worker has finished a tree: its node is sound."""
        self._losses.pop(worker.node.node_id, None)

    def lose(self, worker: Worker, why: str) -> None:
        """The worker died or is of no use; another is started if its node still stands. Harmless if known already."""
        if self._workers.pop(worker.name, None) is None:
            return
        self._ray.kill(worker.actor)
        self._lost(worker.node, why)

    def _lost(self, node: ClusterNode, why: str) -> None:
        self._losses[node.node_id] += 1
        if self._losses[node.node_id] >= MAX_LOSSES:
            self._refuse(
                node,
                BackendError(f"workers on {node.host} died {MAX_LOSSES} times in a row, the last one: {why}"),
            )

    def _refuse(self, node: ClusterNode, error: RstarError) -> None:
        self._refused.add(node.node_id)
        left = bool(self._candidates - self._refused)
        self.events.put_nowait(Refused(node, error, left))

    def _check_gpus(self, nodes: list[ClusterNode]) -> None:
        most = max((node.num_gpus for node in nodes), default=0)
        if 0 < most < self._setup.num_gpus:
            raise ConfigError(
                f"no node of the Ray cluster at {self._address} has the {self._setup.num_gpus} GPUs that one set of engines "
                f"takes; the largest has {most}"
            )
        if not any(self._places(node, on_gpus=most > 0) for node in nodes):
            raise ConfigError(f"no node of the Ray cluster at {self._address} offers a CPU for a worker")

    def _places(self, node: ClusterNode, *, on_gpus: bool) -> int:
        """Workers that a node takes: one per group of GPUs, or one where the cluster has none or they are not needed."""
        if on_gpus and self._setup.num_gpus:
            return node.num_gpus // self._setup.num_gpus
        return int(node.num_cpus > 0)

    async def _watch(self) -> None:
        """Give nodes that join their workers, and nodes that lost one another."""
        while True:
            await asyncio.sleep(POLL_S)
            self._start_missing(await asyncio.to_thread(nodes_of, self._ray))

    def _start_missing(self, nodes: list[ClusterNode]) -> None:
        on_gpus = any(node.num_gpus for node in nodes)
        present = Counter(worker.node.node_id for worker in self._workers.values())
        places = {node: self._places(node, on_gpus=on_gpus) for node in nodes}
        self._candidates = {node.node_id for node, count in places.items() if count}
        for node, count in places.items():
            if node.node_id in self._refused:
                continue
            for _ in range(count - present[node.node_id] - self._starting[node.node_id]):
                self._starting[node.node_id] += 1
                self._spawn(self._start(node, on_gpus=on_gpus))

    async def _start(self, node: ClusterNode, *, on_gpus: bool) -> None:
        """Start one worker; it joins, or its loss is noted."""
        ray = self._ray
        self._number += 1
        name = f"{node.host}#{self._number}"
        actor_class = ray.remote(
            num_cpus=1,
            num_gpus=self._setup.num_gpus if on_gpus else 0,
            max_concurrency=self._setup.max_trees_in_flight + SPARE_CALLS,
            scheduling_strategy=on_node(ray, node),
        )(SearchWorker)
        environment = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
        actor = actor_class.remote(self._setup, environment)
        try:
            warned = await actor.open.remote()
        except ray.exceptions.RayTaskError as error:
            found = own_error(error)
            if not isinstance(found, RstarError):
                raise found from None
            self._starting[node.node_id] -= 1
            ray.kill(actor)
            self._refuse(node, type(found)(f"worker on {node.host}: {found}"))
        except ray.exceptions.RayError as error:
            self._starting[node.node_id] -= 1
            why = last_line(error)
            if "ModuleNotFoundError" in str(error):
                self._refuse(
                    node,
                    ConfigError(f"worker on {node.host}: {why}; this project must be installed on every machine of the cluster"),
                )  # fmt: skip
            else:
                self._lost(node, why)
        except asyncio.CancelledError:
            ray.kill(actor)
            raise
        else:
            self._starting[node.node_id] -= 1
            for line in warned:
                LOG.warning("worker %s: %s", name, line)
            self._workers[name] = Worker(name, node, actor)
            self.events.put_nowait(Joined(self._workers[name]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refuse_all(error)

    def _refuse_all(self, error: BaseException) -> None:
        """A fault of our own: it ends the search."""
        nowhere = ClusterNode(node_id="", host="", hostname="", num_cpus=0, num_gpus=0)
        self.events.put_nowait(
            Refused(nowhere, BackendError(f"{type(error).__name__}: {last_line(error)}"), left=False)
        )

    async def aclose(self) -> None:
        """End all workers, those under way too."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers = [*self._workers.values()]
        closing = [worker.actor.aclose.remote() for worker in workers]
        if closing:
            await asyncio.to_thread(
                self._ray.wait, closing, num_returns=len(closing), timeout=CLOSED_WITHIN_S
            )
        for worker in workers:
            self._ray.kill(worker.actor)
        self._workers.clear()
