"""Any Hugging Face causal language model as a policy, on CPU or CUDA.

On CPU each core gets a process with one thread; on CUDA the engine runs in a thread of this process. Requests of one
group (a tree) go to the same replica, where their prefixes are cached, unless that one is far busier than another.
A replica that dies is started again and its requests are tried once more.

What this file does not cover: batching and sampling (`engine`), loading and its checks (`loading`).
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rstar.backends.loading import EngineSettings, check_device, context_tokens, read_config, read_tokenizer
from rstar.backends.replicas import ProcessReplica, Replica, ThreadReplica
from rstar.backends.stats import EngineStats
from rstar.backends.worker import Reply
from rstar.errors import BackendError, ConfigError
from rstar.protocols import Candidate, ProposeRequest

_MAX_ATTEMPTS = 2
"""How often a request is tried before it fails, each time on a replica that just started or never died."""
_MAX_RESTARTS = 3
"""How often one replica is started again."""
_MAX_GROUPS = 100_000
"""Groups whose replica is remembered."""


@dataclass(slots=True, eq=False)
class _Job:
    job_id: int
    request: ProposeRequest
    future: asyncio.Future[list[Candidate]]
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Place:
    """A replica's place: the replica in it may change, its load and its statistics go on."""

    ready: asyncio.Future[None]
    replica: Replica | None = None
    jobs: dict[int, _Job] = field(default_factory=dict)
    num_rows: int = 0
    num_restarts: int = 0
    lost: str = ""
    stats: EngineStats = field(default_factory=EngineStats)
    past_stats: EngineStats = field(default_factory=EngineStats)


class TransformersPolicy:
    """A `PolicyBackend` over a Hugging Face model folder. Belongs to the event loop that first awaits it.

    `num_replicas`: processes; None is one per core on CPU; 0 runs the engine in a thread of this process, which CUDA
    always does. `dtype`: "auto" (the checkpoint's), "float32", "bfloat16", "float16" or "float64".
    Per replica: at most `max_batch_rows` candidates at once; `kv_cache_mb` bounds the keys and values of requests being
    decoded (a single request that needs more runs alone); `prefix_cache_mb` those kept for later requests.

    Log-probabilities are of the model's own distribution (temperature 1, nothing cut), whatever the sampling.
    A completion also ends at the model's end-of-sequence token, which stays in its ids and text.

    Raises ConfigError with one line if the folder, its tokenizer, the device or a number is wrong.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        num_replicas: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_rows: int = 128,
        max_context_tokens: int | None = None,
        kv_cache_mb: int = 1024,
        prefix_cache_mb: int = 512,
    ) -> None:
        path = Path(model)
        config = read_config(path)
        self._vocab_size: int = config.vocab_size
        self._tokenizer = read_tokenizer(path)
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        if num_replicas is None:
            num_replicas = len(os.sched_getaffinity(0)) if device == "cpu" else 0
        if num_replicas < 0:
            raise ConfigError(
                f"num_replicas is {num_replicas}; it must be at least 0 (0: a thread of this process)"
            )
        if num_replicas and device != "cpu":
            raise ConfigError(f"num_replicas is {num_replicas}; with device {device!r} it must be 0")
        self._in_process = num_replicas == 0
        self._num_places = max(num_replicas, 1)
        self._settings = EngineSettings(
            model=path.resolve(),
            device=device,
            dtype=dtype,
            max_batch_rows=max_batch_rows,
            max_context_tokens=context_tokens(path, max_context_tokens),
            kv_cache_mb=kv_cache_mb,
            prefix_cache_mb=prefix_cache_mb,
        )
        self._places: list[_Place] = []
        self._place_of_group: OrderedDict[str, _Place] = OrderedDict()
        self._next_job_id = 0
        self._closed = False

    @property
    def max_context_tokens(self) -> int:
        """Tokens of prefix and completion together."""
        return self._settings.max_context_tokens

    @property
    def num_replicas(self) -> int:
        """Processes; 0 if the engine runs in this one."""
        return 0 if self._in_process else self._num_places

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added (those that the text spells out are found)."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages in the model's chat template, up to where the assistant's answer begins."""
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer in {self._settings.model} has no chat template; use a prompt format without"
            )
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def stats(self) -> EngineStats:
        """Totals over all replicas, as of their last replies."""
        return sum((place.past_stats + place.stats for place in self._places), EngineStats())

    async def start(self) -> None:
        """Load the model everywhere; `propose` does it by itself. Raises ConfigError or BackendError if it cannot."""
        if self._closed:
            raise BackendError("this policy back-end is closed")
        if not self._places:
            loop = asyncio.get_running_loop()
            self._places = [_Place(ready=loop.create_future()) for _ in range(self._num_places)]
            for place in self._places:
                self._launch(place)
        waiting = [place.ready for place in self._places if not place.ready.done() or place.ready.exception()]
        await asyncio.gather(*(asyncio.shield(ready) for ready in waiting))

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        """The candidates, by index. Text ends right after the first stop text; see `rstar.backends.stops`.

        A prefix that fills the context gets empty candidates with `FinishReason.LENGTH`.
        Raises BackendError for an empty prefix, ids outside the vocabulary, or a model that cannot answer.
        """
        if not request.prefix_ids:
            raise BackendError("a request with an empty prefix; the prompt must have at least one token")
        if not 0 <= min(request.prefix_ids) <= max(request.prefix_ids) < self._vocab_size:
            raise BackendError(
                f"a request with token ids outside the model's vocabulary of {self._vocab_size}"
            )
        await self.start()
        job = _Job(self._next_job_id, request, asyncio.get_running_loop().create_future())
        self._next_job_id += 1
        self._assign(job, self._choose(request.group))
        try:
            return await job.future
        finally:
            for place in self._places:
                if place.jobs.pop(job.job_id, None) is not None:
                    place.num_rows -= request.num_candidates

    async def aclose(self) -> None:
        """End all replicas; requests still waiting raise BackendError."""
        self._closed = True
        replicas = [place.replica for place in self._places if place.replica is not None]
        for place in self._places:
            place.replica = None
            self._fail(place, list(place.jobs.values()), "the back-end was closed")
        await asyncio.gather(*(asyncio.to_thread(replica.close) for replica in replicas))

    # --- the event loop's side; replicas report from their threads through `_launch` ---

    def _launch(self, place: _Place) -> None:
        loop = asyncio.get_running_loop()

        def report(handle: partial[None]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(handle)

        kind = ThreadReplica if self._in_process else ProcessReplica
        place.replica = kind(
            self._settings,
            lambda reply: report(partial(self._on_reply, place, reply)),
            lambda reason: report(partial(self._on_death, place, reason)),
        )

    def _choose(self, group: str) -> _Place:
        """The group's own replica, or the least busy one if that is busier by more than half a batch."""
        alive = [place for place in self._places if not place.lost]
        if not alive:
            raise BackendError(f"no replica of {self._settings.model} is left: {self._places[0].lost}")
        least = min(alive, key=lambda place: place.num_rows)
        own = self._place_of_group.get(group)
        if own is None or own.lost or own.num_rows > least.num_rows + self._settings.max_batch_rows // 2:
            own = least
        if group:
            self._place_of_group[group] = own
            self._place_of_group.move_to_end(group)
            if len(self._place_of_group) > _MAX_GROUPS:
                self._place_of_group.popitem(last=False)
        return own

    def _assign(self, job: _Job, place: _Place) -> None:
        assert place.replica is not None
        job.attempts += 1
        place.jobs[job.job_id] = job
        place.num_rows += job.request.num_candidates
        place.replica.submit(job.job_id, job.request)

    def _on_reply(self, place: _Place, reply: Reply) -> None:
        if self._closed:
            return
        place.stats = reply.stats
        if not place.ready.done():
            if reply.error:
                error = ConfigError(reply.error) if reply.config_error else BackendError(reply.error)
                place.lost = reply.error
                place.ready.set_exception(error)
            else:
                place.ready.set_result(None)
            return
        for job_id, candidates in reply.finished:
            if (job := place.jobs.get(job_id)) is not None and not job.future.done():
                job.future.set_result(candidates)
        failed = [place.jobs[job_id] for job_id in reply.failed if job_id in place.jobs]
        self._fail(place, failed, reply.error)

    def _on_death(self, place: _Place, reason: str) -> None:
        if self._closed or place.lost:
            return
        if place.replica is not None:
            place.replica.close()
        place.past_stats, place.stats = place.past_stats + place.stats, EngineStats()
        if not place.ready.done():
            place.lost = reason
            place.ready.set_exception(
                BackendError(f"a replica of {self._settings.model} did not start: {reason}")
            )
            return
        jobs = list(place.jobs.values())
        place.jobs.clear()
        place.num_rows = 0
        if place.num_restarts == _MAX_RESTARTS:
            place.lost = f"{reason}, after {_MAX_RESTARTS} restarts"
        else:
            place.num_restarts += 1
            self._launch(place)
        for job in jobs:
            if job.future.done():
                continue
            if job.attempts == _MAX_ATTEMPTS:
                self._fail(place, [job], f"{reason}, {job.attempts} times with this request")
                continue
            try:
                self._assign(job, self._choose(job.request.group))
            except BackendError as error:
                job.future.set_exception(error)

    def _fail(self, place: _Place, jobs: Sequence[_Job], reason: str) -> None:
        for job in jobs:
            if not job.future.done():
                error = BackendError(f"the model in {self._settings.model} could not answer: {reason}")
                job.future.set_exception(error)
