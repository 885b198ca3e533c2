"""Engines behind one awaitable call: several processes with one thread each, or one thread of this process.

Requests of one group (a tree) go to the same replica, where their prefixes are cached, unless that one is far busier
than another. A replica that dies is started again and its requests are tried once more.

What this file does not cover: what is asked and answered (`transformers` for policies), what a replica does (`worker`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from rstar import logs
from rstar.backends.loading import check_device
from rstar.backends.replicas import ProcessReplica, Replica, ThreadReplica
from rstar.backends.stats import Totals
from rstar.backends.worker import ReplicaSettings, Reply
from rstar.errors import BackendError, ConfigError

_MAX_ATTEMPTS = 2
"""How often a request is tried before it fails, each time on a replica that just started or never died."""
_MAX_RESTARTS = 3
"""How often one replica is started again."""
_MAX_GROUPS = 100_000
"""Groups whose replica is remembered."""

events = logs.events(__name__)

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")
TotalsT = TypeVar("TotalsT", bound=Totals)


def choose_replicas(device: str, num_replicas: int | None, *, on_cpu: int) -> tuple[str, int]:
    """The device for "auto" (CUDA if there is one), and the number of processes for None: `on_cpu` there, 0 on a GPU.

    Raises ConfigError if torch cannot use the device, or the number does not go with it.
    """
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    if num_replicas is None:
        num_replicas = on_cpu if device == "cpu" else 0
    if num_replicas < 0:
        raise ConfigError(
            f"num_replicas is {num_replicas}; it must be at least 0 (0: a thread of this process)"
        )
    if num_replicas and device != "cpu":
        raise ConfigError(f"num_replicas is {num_replicas}; with device {device!r} it must be 0")
    return device, num_replicas


@dataclass(slots=True, eq=False)
class _Job:
    job_id: int
    request: object
    group: str
    load: int
    future: asyncio.Future[Any]
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Place(Generic[TotalsT]):
    """A replica's place: the replica in it may change, its load and its statistics go on."""

    ready: asyncio.Future[None]
    stats: TotalsT
    past_stats: TotalsT
    replica: Replica | None = None
    jobs: dict[int, _Job] = field(default_factory=dict)
    load: int = 0
    num_restarts: int = 0
    lost: str = ""


class ReplicaPool(Generic[RequestT, AnswerT, TotalsT]):
    """Replicas of one engine. Belongs to the event loop that first awaits it.

    `num_replicas`: processes; 0 is one engine in a thread of this process. A request has a `load`, in a unit of its own:
    a group leaves its replica for the least busy one if that has less to do by more than `max_imbalance`. `kind` and
    `model` name the back-end and its folder in errors; `totals` is what the engines count. `environments` are what the
    processes have over this one's environment, one for each.
    """

    def __init__(
        self,
        settings: ReplicaSettings[RequestT, AnswerT, TotalsT],
        *,
        num_replicas: int,
        max_imbalance: int,
        kind: str,
        model: Path,
        totals: type[TotalsT],
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.num_replicas = num_replicas
        self._settings = settings
        self._max_imbalance = max_imbalance
        self._kind = kind
        self._model = model
        self._totals = totals
        self._environments: Sequence[Mapping[str, str]] = environments or [{}] * num_replicas
        self._places: list[_Place[TotalsT]] = []
        self._place_of_group: OrderedDict[str, _Place[TotalsT]] = OrderedDict()
        self._next_job_id = 0
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas that are processes."""
        replicas = [place.replica for place in self._places]
        return [replica.pid for replica in replicas if isinstance(replica, ProcessReplica)]

    def stats(self) -> TotalsT:
        """Totals over all replicas, as of their last replies."""
        return sum((place.past_stats + place.stats for place in self._places), self._totals())

    async def start(self) -> None:
        """Load the model everywhere; `ask` does it by itself. Raises ConfigError or BackendError if it cannot."""
        if self._closed:
            raise BackendError(f"this {self._kind} is closed")
        if not self._places:
            loop = asyncio.get_running_loop()
            self._places = [
                _Place(loop.create_future(), self._totals(), self._totals())
                for _ in range(max(self.num_replicas, 1))
            ]
            for place in self._places:
                self._launch(place)
        waiting = [place.ready for place in self._places if not place.ready.done() or place.ready.exception()]
        await asyncio.gather(*(asyncio.shield(ready) for ready in waiting))

    async def ask(self, request: RequestT, *, group: str, load: int) -> AnswerT:
        """The engine's answer. Whoever stops waiting for it takes the request back. Raises BackendError if no answer comes,
        ConfigError if the model cannot be loaded."""
        await self.start()
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        job = _Job(self._next_job_id, request, group, load, future)
        self._next_job_id += 1
        self._assign(job, self._choose(group))
        try:
            return await future
        finally:
            for place in self._places:
                if place.jobs.pop(job.job_id, None) is not None:
                    place.load -= load
                    if future.cancelled() and place.replica is not None:
                        place.replica.submit(job.job_id, None)

    async def aclose(self) -> None:
        """End all replicas; requests still waiting raise BackendError."""
        self._closed = True
        replicas = [place.replica for place in self._places if place.replica is not None]
        for place in self._places:
            place.replica = None
            self._fail(list(place.jobs.values()), "the back-end was closed")
            if not place.ready.done():
                place.ready.set_exception(BackendError(f"this {self._kind} was closed while it started"))
                place.ready.exception()  # seen, whether somebody waits for it or not
        await asyncio.gather(*(asyncio.to_thread(replica.close) for replica in replicas))

    # --- the event loop's side; replicas report from their threads through `_launch` ---

    def _launch(self, place: _Place[TotalsT]) -> None:
        loop = asyncio.get_running_loop()

        def report(handle: partial[None]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(handle)

        def on_reply(reply: Reply) -> None:
            report(partial(self._on_reply, place, reply))

        def on_death(reason: str) -> None:
            report(partial(self._on_death, place, reason))

        if self.num_replicas:
            environment = self._environments[self._places.index(place)]
            place.replica = ProcessReplica(self._settings, on_reply, on_death, environment)
        else:
            place.replica = ThreadReplica(self._settings, on_reply, on_death)

    def _choose(self, group: str) -> _Place[TotalsT]:
        """The group's own replica, or the least busy one if that is busier by more than `max_imbalance`."""
        alive = [place for place in self._places if not place.lost]
        if not alive:
            raise BackendError(f"no replica of {self._model} is left: {self._places[0].lost}")
        least = min(alive, key=lambda place: place.load)
        own = self._place_of_group.get(group)
        if own is None or own.lost or own.load > least.load + self._max_imbalance:
            own = least
        if group:
            self._place_of_group[group] = own
            self._place_of_group.move_to_end(group)
            if len(self._place_of_group) > _MAX_GROUPS:
                self._place_of_group.popitem(last=False)
        return own

    def _assign(self, job: _Job, place: _Place[TotalsT]) -> None:
        assert place.replica is not None
        job.attempts += 1
        place.jobs[job.job_id] = job
        place.load += job.load
        place.replica.submit(job.job_id, job.request)

    def _on_reply(self, place: _Place[TotalsT], reply: Reply) -> None:
        if self._closed:
            return
        if reply.stats is not None:
            assert isinstance(reply.stats, self._totals)
            place.stats = reply.stats
        if not place.ready.done():
            if reply.error:
                error = ConfigError(reply.error) if reply.config_error else BackendError(reply.error)
                place.lost = reply.error
                place.ready.set_exception(error)
            else:
                place.ready.set_result(None)
            return
        for job_id, answer in reply.finished:
            if (job := place.jobs.get(job_id)) is not None and not job.future.done():
                job.future.set_result(answer)
        failed = [place.jobs[job_id] for job_id in reply.failed if job_id in place.jobs]
        self._fail(failed, reply.error)

    def _on_death(self, place: _Place[TotalsT], reason: str) -> None:
        if self._closed or place.lost:
            return
        if place.replica is not None:
            place.replica.close()
        place.past_stats, place.stats = place.past_stats + place.stats, self._totals()
        if not place.ready.done():
            place.lost = reason
            place.ready.set_exception(BackendError(f"a replica of {self._model} did not start: {reason}"))
            return
        jobs = list(place.jobs.values())
        place.jobs.clear()
        place.load = 0
        if place.num_restarts == _MAX_RESTARTS:
            place.lost = f"{reason}, after {_MAX_RESTARTS} restarts"
            events.warning("replica lost", kind=self._kind, reason=place.lost)
        else:
            place.num_restarts += 1
            events.warning("replica restarted", kind=self._kind, reason=reason, restarts=place.num_restarts)
            self._launch(place)
        for job in jobs:
            if job.future.done():
                continue
            if job.attempts == _MAX_ATTEMPTS:
                self._fail([job], f"{reason}, {job.attempts} times with this request")
                continue
            try:
                self._assign(job, self._choose(job.group))
            except BackendError as error:
                job.future.set_exception(error)

    def _fail(self, jobs: Sequence[_Job], reason: str) -> None:
        for job in jobs:
            if not job.future.done():
                error = BackendError(f"the model in {self._model} could not answer: {reason}")
                job.future.set_exception(error)
