"""Continuous batching over one model: the requests being decoded share every forward pass, and none waits for another.

Each step admits what is waiting, feeds one token per unfinished candidate (and a few prefix tokens of new requests) in
one forward pass, samples, and hands back the requests that are complete. Prefixes come from the prefix cache as far as
it goes; long remainders are prefilled together first. A candidate that ends at a stop text leaves its keys and values in
the prefix cache for the requests that continue it.

The engine is synchronous and owned by one thread. What this file does not cover: processes (`replicas`, `worker`).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from rstar.backends.attention import DecodeCache, PrefillCache, decoding
from rstar.backends.kv_pool import MAX_LANES, KVPool, KVShape, PoolRows, pool_size, round_columns
from rstar.backends.prefix_cache import PrefixCache
from rstar.backends.sampling import sample, uniforms
from rstar.backends.stats import EngineStats
from rstar.backends.stops import StopFinder, TextDecoder
from rstar.protocols import Candidate, FinishReason, ProposeRequest

_CHUNK = 8
"""Prefix tokens of one request fed beside other requests' candidates in one step."""
_PREFILL_TOKENS = 8192
"""Most tokens, padding included, of one separate prefill pass."""
_SPARE_TOKENS = 16
"""Columns per candidate that a slot gets at first; it moves to a larger pool when they are full."""


@dataclass(slots=True)
class _Job:
    job_id: int
    request: ProposeRequest
    finder: StopFinder
    limit: int
    candidates: list[Candidate | None]
    num_open: int


@dataclass(slots=True, eq=False)
class _Lane:
    """A candidate being written. `columns` are where its fed tokens are (all but the last)."""

    index: int
    lane: int
    uniforms: list[float]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Slot:
    """Up to MAX_LANES candidates of one job, in slot `index` of `pool`. `num_fed` prefix tokens are in the pool."""

    job: _Job
    lanes: list[_Lane]
    pool: _Pool
    index: int
    num_fed: int
    num_columns: int
    reserved: int


class _Pool:
    """A KV pool and who is in its slots."""

    def __init__(self, shape: KVShape, num_columns: int) -> None:
        self.kv = KVPool(shape, num_columns)
        self.slots: list[_Slot] = []

    def remove(self, slot: _Slot) -> None:
        self.kv.remove_slot(slot.index)
        moved = self.slots.pop()
        if moved is not slot:
            self.slots[slot.index] = moved
            moved.index = slot.index


@dataclass(slots=True)
class _Draws:
    """Whom the step samples for: parallel lists."""

    slots: list[_Slot] = field(default_factory=list)
    lanes: list[_Lane] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    uniforms: list[float] = field(default_factory=list)

    def add(self, slot: _Slot, lane: _Lane, row: int) -> None:
        """Sample the lane's next token from the logits of this row."""
        self.slots.append(slot)
        self.lanes.append(lane)
        self.rows.append(row)
        self.uniforms.append(lane.uniforms[len(lane.token_ids)])


class Engine:
    """Decodes many requests at once. `submit`, then `step` until `has_work` is false."""

    def __init__(
        self,
        model: nn.Module,
        shape: KVShape,
        decoder: TextDecoder,
        *,
        eos_ids: frozenset[int],
        max_batch_rows: int,
        max_context_tokens: int,
        kv_cache_bytes: int,
        prefix_cache_bytes: int,
    ) -> None:
        self.stats = EngineStats()
        self._model = model
        self._shape = shape
        self._decoder = decoder
        self._eos_ids = eos_ids
        self._max_batch_rows = max_batch_rows
        self._max_context_tokens = max_context_tokens
        self._free_columns = self._max_columns = kv_cache_bytes // shape.bytes_per_token
        self._cache = PrefixCache(max_bytes=prefix_cache_bytes, bytes_per_token=shape.bytes_per_token)
        self._pools: dict[int, _Pool] = {}
        self._waiting: deque[tuple[_Job, range]] = deque()
        self._finders: dict[tuple[str, ...], StopFinder] = {}
        self._finished: list[_Job] = []
        self._num_rows = 0
        # A four-dimensional mask tells Hugging Face to leave masks alone. The attention function has its own.
        self._no_mask = torch.zeros((1, 1, 1, 1), dtype=shape.dtype, device=shape.device)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._num_rows or self._finished)

    def reset(self) -> None:
        """Forget all requests and everything cached."""
        self._pools.clear()
        self._waiting.clear()
        self._finished.clear()
        self._cache.clear()
        self._free_columns, self._num_rows = self._max_columns, 0

    def submit(self, job_id: int, request: ProposeRequest) -> None:
        """Queue a request. Its prefix must not be empty, its ids within the vocabulary."""
        if (finder := self._finders.get(request.stop)) is None:
            finder = self._finders[request.stop] = StopFinder(request.stop, self._decoder)
        num_candidates = request.num_candidates
        limit = min(request.sampling.max_step_tokens, self._max_context_tokens - len(request.prefix_ids))
        job = _Job(job_id, request, finder, limit, [None] * num_candidates, num_candidates)
        if limit <= 0 or num_candidates == 0:
            nothing = Candidate(text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH)
            job.candidates = [nothing] * num_candidates
            self._finished.append(job)
            return
        for start in range(0, num_candidates, MAX_LANES):
            self._waiting.append((job, range(start, min(start + MAX_LANES, num_candidates))))

    @torch.inference_mode()
    def cancel(self, job_id: int) -> None:
        """Forget a request."""
        self._waiting = deque(entry for entry in self._waiting if entry[0].job_id != job_id)
        self._finished = [job for job in self._finished if job.job_id != job_id]
        for pool in self._pools.values():
            for slot in [slot for slot in pool.slots if slot.job.job_id == job_id]:
                pool.remove(slot)
                self._num_rows -= len(slot.lanes)
                self._free_columns += slot.reserved

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[Candidate]]]:
        """One token for every candidate in the batch; returns the requests that are now complete."""
        started_s = time.perf_counter()
        self._admit()
        if self._num_rows:
            self._make_room()
            self._decode()
        finished, self._finished = self._finished, []
        self.stats.busy_s += time.perf_counter() - started_s
        return [(job.job_id, [c for c in job.candidates if c is not None]) for job in finished]

    # --- admission and prefill ---

    def _admit(self) -> None:
        admitted = []
        num_rows, free_columns = self._num_rows, self._free_columns
        while self._waiting:
            job, candidates = self._waiting[0]
            needed = _columns_needed(job, len(candidates))
            fits = num_rows + len(candidates) <= self._max_batch_rows and needed <= free_columns
            if num_rows and not fits:
                break
            admitted.append(self._waiting.popleft())
            num_rows += len(candidates)
            free_columns -= needed
        while admitted:
            admitted = self._start(admitted)

    def _start(self, admitted: list[tuple[_Job, range]]) -> list[tuple[_Job, range]]:
        """Give slots to requests; returns those that had better wait for the prefix that another one is computing."""
        later: list[tuple[_Job, range]] = []
        prefill: list[tuple[_Job, range, list[Tensor]]] = []
        for job, candidates in admitted:
            prefix_ids = job.request.prefix_ids
            known = self._cache.match(prefix_ids[:-1])
            num_known = sum(kv.shape[-2] for kv in known)
            if len(prefix_ids) - num_known <= 2 * _CHUNK:
                self._place(job, candidates, known, num_known)
            elif self._cache.can_hold(len(prefix_ids)) and any(
                prefix_ids[: num_known + _CHUNK] == other.request.prefix_ids[: num_known + _CHUNK]
                for other, _, _ in prefill
            ):
                later.append((job, candidates))
            else:
                prefill.append((job, candidates, known))
        prefill.sort(key=lambda entry: len(entry[0].request.prefix_ids))
        while prefill:
            batch = [prefill.pop()]
            width = len(batch[0][0].request.prefix_ids)
            while prefill and width * (len(batch) + 1) <= _PREFILL_TOKENS:
                batch.append(prefill.pop())
            self._prefill(batch)
        return later

    def _prefill(self, batch: list[tuple[_Job, range, list[Tensor]]]) -> None:
        """Compute keys and values of all but the last prefix token, which is fed with the next step."""
        prefixes = [job.request.prefix_ids[:-1] for job, _, _ in batch]
        known = [kv for _, _, kv in batch]
        num_known = [sum(kv.shape[-2] for kv in segments) for segments in known]
        new_ids = [ids[start:] for ids, start in zip(prefixes, num_known, strict=True)]
        width = max(map(len, new_ids))
        cache = PrefillCache(self._shape, known, [len(ids) for ids in new_ids])
        padded = [[0] * (width - len(ids)) + list(ids) for ids in new_ids]
        self._model(
            input_ids=torch.tensor(padded, device=self._shape.device),
            attention_mask=cache.mask,
            position_ids=cache.position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.stats.prefill_passes += 1
        for i, (job, candidates, _) in enumerate(batch):
            kv = cache.computed(i, len(prefixes[i]))
            self._cache.insert(prefixes[i], 0, partial(_clone_from, kv))
            self._place(job, candidates, [kv], num_known[i])

    def _place(self, job: _Job, candidates: range, known: list[Tensor], num_cached: int) -> None:
        prefix_ids = job.request.prefix_ids
        pool = self._pool(len(prefix_ids) + len(candidates) * min(job.limit, _SPARE_TOKENS))
        draws = uniforms(job.request.seed, candidates, job.limit).tolist()
        lanes = [_Lane(index, lane, draws[lane]) for lane, index in enumerate(candidates)]
        reserved = _columns_needed(job, len(candidates))
        slot = _Slot(job, lanes, pool, pool.kv.add_slot(), 0, 0, reserved)
        pool.slots.append(slot)
        for kv in known:
            slot.num_fed = pool.kv.write(slot.index, slot.num_fed, kv)
        slot.num_columns = slot.num_fed
        self._num_rows += len(lanes)
        self._free_columns -= reserved
        self.stats.prefill_tokens += len(prefix_ids)
        self.stats.cached_tokens += num_cached

    def _pool(self, num_columns: int) -> _Pool:
        size = pool_size(num_columns)
        if size not in self._pools:
            self._pools[size] = _Pool(self._shape, size)
        return self._pools[size]

    # --- one step ---

    def _make_room(self) -> None:
        """Slots whose columns are used up drop what finished candidates left, and move where there is more room."""
        for pool in list(self._pools.values()):
            for slot in list(pool.slots):
                if slot.num_columns + len(slot.lanes) > pool.kv.num_columns:
                    self._relocate(slot)

    def _relocate(self, slot: _Slot) -> None:
        old, num_prefix = slot.pool, slot.num_fed
        columns = [*range(num_prefix), *(column for lane in slot.lanes for column in lane.columns)]
        kv = old.kv.read(slot.index, columns)
        slot.num_columns = len(columns)
        new = self._pool(slot.num_columns + len(slot.lanes) * _SPARE_TOKENS)
        if new is not old:
            old.remove(slot)
            slot.pool, slot.index = new, new.kv.add_slot()
            new.slots.append(slot)
        new.kv.write(slot.index, 0, kv)
        new.kv.hide(slot.index)
        new.kv.show(slot.index, slice(None), slice(0, num_prefix))
        start = num_prefix
        for lane in slot.lanes:
            end = start + len(lane.columns)
            new.kv.show(slot.index, slice(lane.lane, lane.lane + 1), slice(start, end))
            lane.columns = list(range(start, end))
            start = end

    def _decode(self) -> None:
        ids: list[int] = []
        positions: list[int] = []
        rows: list[PoolRows] = []
        draws = _Draws()
        completed: list[_Slot] = []
        for pool in self._pools.values():
            if pool.slots:
                rows.append(self._feed(pool, ids, positions, draws, completed))
        device = self._shape.device
        ids_positions = torch.tensor((ids, positions), device=device)
        with decoding(rows):
            logits_RV = self._model(
                input_ids=ids_positions[0][:, None],
                attention_mask=self._no_mask,
                position_ids=ids_positions[1][:, None],
                past_key_values=DecodeCache(rows),
                use_cache=True,
            ).logits[:, -1]
        self.stats.steps += 1
        self.stats.rows += len(ids)
        for slot in completed:
            self._prefix_is_fed(slot)
        if draws.rows:
            self._draw(logits_RV, draws)

    def _feed(
        self, pool: _Pool, ids: list[int], positions: list[int], draws: _Draws, completed: list[_Slot]
    ) -> PoolRows:
        """Append this pool's rows of the step, and note whom to sample for and whose prefix is now complete."""
        first, num_columns = len(ids), pool.kv.num_columns
        lanes: list[tuple[int, int]] = []
        columns: list[int] = []
        shown: list[int] = []
        for slot in pool.slots:
            prefix_ids = slot.job.request.prefix_ids
            if (start := slot.num_fed) < len(prefix_ids):
                end = min(start + _CHUNK, len(prefix_ids))
                pool.kv.show_causal(slot.index, start, end - start)
                ids += prefix_ids[start:end]
                positions += range(start, end)
                columns += range(start, end)
                lanes += [(slot.index, lane) for lane in range(end - start)]
                slot.num_fed = slot.num_columns = end
                if end == len(prefix_ids):
                    completed.append(slot)
                    for lane in slot.lanes:
                        draws.add(slot, lane, len(ids) - 1)
                continue
            first_mask, num_prefix, column = slot.index * MAX_LANES, len(prefix_ids), slot.num_columns
            for lane in slot.lanes:
                draws.add(slot, lane, len(ids))
                ids.append(lane.token_ids[-1])
                positions.append(num_prefix + len(lane.columns))
                lanes.append((slot.index, lane.lane))
                shown.append((first_mask + lane.lane) * num_columns + column)
                lane.columns.append(column)
                column += 1
            columns += range(slot.num_columns, column)
            slot.num_columns = column
        device, num_kv_heads = self._shape.device, self._shape.num_kv_heads
        pool.kv.mask_SLT.view(-1).index_fill_(0, torch.tensor(shown, dtype=torch.int64, device=device), 0)
        num_lanes = 1 + max(lane for _, lane in lanes)
        packed = torch.tensor(
            ([slot * num_lanes + lane for slot, lane in lanes], [slot for slot, _ in lanes], columns),
            device=device,
        )
        heads = torch.arange(num_kv_heads, device=device)
        flat_RK = (packed[1][:, None] * num_kv_heads + heads) * num_columns + packed[2][:, None]
        used = round_columns(max(slot.num_columns for slot in pool.slots), num_columns)
        return PoolRows(pool.kv, slice(first, len(ids)), num_lanes, used, packed[0], flat_RK.flatten())

    def _prefix_is_fed(self, slot: _Slot) -> None:
        """All candidates now see the whole prefix, and so will the requests that share it."""
        prefix_ids = slot.job.request.prefix_ids
        kv, index = slot.pool.kv, slot.index
        kv.hide(index)
        kv.show(index, slice(None), slice(0, len(prefix_ids)))
        self._cache.insert(prefix_ids, 0, lambda at: kv.read(index, range(at, len(prefix_ids))))

    def _draw(self, logits_RV: Tensor, draws: _Draws) -> None:
        device = self._shape.device
        if draws.rows != list(range(len(logits_RV))):
            logits_RV = logits_RV[torch.tensor(draws.rows, device=device)]
        sampling = [slot.job.request.sampling for slot in draws.slots]
        tokens_R, logprobs_R = sample(
            logits_RV,
            torch.tensor(draws.uniforms, dtype=torch.float64, device=device),
            torch.tensor([s.temperature for s in sampling], device=device),
            torch.tensor([s.top_k for s in sampling], device=device),
            torch.tensor([s.top_p for s in sampling], device=device),
        )
        self.stats.generated_tokens += len(sampling)
        for slot, lane, token_id, logprob in zip(
            draws.slots, draws.lanes, tokens_R.tolist(), logprobs_R.tolist(), strict=True
        ):
            lane.token_ids.append(token_id)
            lane.logprobs.append(logprob)
            at_stop = slot.job.finder.find(lane.token_ids)
            if at_stop or token_id in self._eos_ids:
                self._finish(slot, lane, FinishReason.STOP, at_stop)
            elif len(lane.token_ids) == slot.job.limit:
                self._finish(slot, lane, FinishReason.LENGTH, at_stop)

    def _finish(self, slot: _Slot, lane: _Lane, reason: FinishReason, at_stop: bool) -> None:
        job = slot.job
        text = self._decoder.decode(lane.token_ids)
        job.candidates[lane.index] = Candidate(
            text=job.finder.cut(text) if at_stop else text,
            token_ids=tuple(lane.token_ids),
            logprobs=tuple(lane.logprobs),
            finish_reason=reason,
        )
        if at_stop:  # anything else ends the path: nobody continues it
            prefix_ids, kv = job.request.prefix_ids, slot.pool.kv
            fed_ids = (*prefix_ids, *lane.token_ids[:-1])
            self._cache.insert(
                fed_ids,
                len(prefix_ids),
                lambda at: kv.read(slot.index, lane.columns[at - len(prefix_ids) :]),
            )
        slot.lanes.remove(lane)
        self._num_rows -= 1
        if not slot.lanes:
            slot.pool.remove(slot)
            self._free_columns += slot.reserved
        job.num_open -= 1
        if job.num_open == 0:
            self._finished.append(job)


def _clone_from(kv: Tensor, start: int) -> Tensor:
    return kv[..., start:, :].clone()


def _columns_needed(job: _Job, num_lanes: int) -> int:
    """Most columns that a slot can come to use."""
    return len(job.request.prefix_ids) + num_lanes * job.limit
