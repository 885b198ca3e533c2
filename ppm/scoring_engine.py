"""Scores of steps, batched and with what is known kept: the model computes only what is new.

A request is a prefix and the steps that may follow it. The longest known beginning of the prefix comes from a cache of
keys and values; the rest of the prefix and all its steps, as one tree of tokens, are a row of a batch. What is computed
stays in the cache, so the requests that continue one of the steps find everything up to there. A step of the engine takes
what waits, and gives rows of about one size a pass of their own.

The engine is synchronous and owned by one thread. What this file does not cover: how it is built and checked
(`scoring_settings`), processes (`rstar.backends.pool`), asking from a search (`scorer`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ppm.batches import PADDING_ID, judged_ids
from ppm.model import ProcessPreferenceModel, search_values, visible
from ppm.siblings import Siblings
from ppm.token_tree import TokenTree, token_tree
from rstar.backends.attention import TreeCache
from rstar.backends.kv_pool import KVShape
from rstar.backends.prefix_cache import PrefixCache
from rstar.backends.stats import Totals

_WORTH_WAITING_FOR = 16
"""A request waits for the next step if another one, in this step, computes so many unknown tokens of its prefix."""
_COLUMNS_PER_TOKEN = 8
"""Most columns of keys and values in one step, known ones and padding included, for each token of `max_pass_tokens`."""
_MIN_WIDTH = 16
"""Rows with fewer new tokens are not told apart by size: a pass of their own costs more than their padding."""


@dataclass(slots=True)
class ScoringStats(Totals):
    """Running totals of one engine, or of several together.

    `computed_tokens` went through the model, `padded_tokens` with the padding of their batches; `cached_tokens` are those
    of prefixes that did not have to. `busy_s` is the wall time spent in steps.
    """

    scored_steps: int = 0
    passes: int = 0
    computed_tokens: int = 0
    padded_tokens: int = 0
    cached_tokens: int = 0
    busy_s: float = 0.0


@dataclass(slots=True)
class _Job:
    job_id: int
    request: Siblings
    scores: list[float]


@dataclass(slots=True)
class _Row:
    """Some steps of a job, those at `steps`, whose beginning of `num_known` tokens is `known` and whose rest is `tree`."""

    job: _Job
    steps: list[int]
    known: list[Tensor]
    num_known: int
    tree: TokenTree
    is_cut: bool


class ScoringEngine:
    """Scores what waits. `submit`, then `step` until `has_work` is false."""

    def __init__(
        self,
        model: ProcessPreferenceModel,
        shape: KVShape,
        *,
        max_length: int,
        max_pass_tokens: int,
        prefix_cache_bytes: int,
    ) -> None:
        self.stats = ScoringStats()
        self._model = model
        self._shape = shape
        self._max_length = max_length
        self._max_pass_tokens = max_pass_tokens
        self._cache = PrefixCache(max_bytes=prefix_cache_bytes, bytes_per_token=shape.bytes_per_token)
        self._waiting: deque[_Job] = deque()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting)

    def reset(self) -> None:
        """Forget all requests and everything cached."""
        self._waiting.clear()
        self._cache.clear()

    def submit(self, job_id: int, request: Siblings) -> None:
        """Queue a request."""
        self._waiting.append(_Job(job_id, request, [0.0] * len(request.steps)))

    def cancel(self, job_id: int) -> None:
        """Forget a request."""
        self._waiting = deque(job for job in self._waiting if job.job_id != job_id)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[float]]]:
        """Score what waits, the oldest first and only so much of it; returns the scores, in [-1, 1], of those requests."""
        started_s = time.perf_counter()
        rows = self._next_rows()
        for _, alike in groupby(sorted(rows, key=_size), key=_size):
            self._pass(list(alike))
        self.stats.busy_s += time.perf_counter() - started_s
        jobs = {row.job.job_id: row.job for row in rows}
        return [(job_id, job.scores) for job_id, job in jobs.items()]

    # --- what goes into a step ---

    def _next_rows(self) -> list[_Row]:
        """The rows of the oldest request, and of those behind it for which there is room; they leave the queue."""
        taken: list[_Row] = []
        later: list[_Job] = []
        room, width, num_known = self._max_pass_tokens, 0, 0
        while self._waiting:
            job = self._waiting.popleft()
            rows = self._rows(job, taken)
            if not rows:
                later.append(job)
                continue
            cost = sum(len(row.tree) for row in rows)
            width = max(width, *(len(row.tree) for row in rows), 0)
            num_known = max(num_known, *(row.num_known for row in rows), 0)
            num_columns = (len(taken) + len(rows)) * (width + num_known)
            if taken and (cost > room or num_columns > _COLUMNS_PER_TOKEN * self._max_pass_tokens):
                later.append(job)
                break
            taken += rows
            room -= cost
        self._waiting.extendleft(reversed(later))
        return taken

    def _rows(self, job: _Job, taken: list[_Row]) -> list[_Row]:
        """The job's rows: one for the steps that fit with their whole prefix, one for those that it is cut for. None at
        all if the job had better wait for what those that are taken compute."""
        prefix_ids, steps = job.request.prefix_ids, job.request.steps
        room = self._max_length - len(prefix_ids)
        whole = [index for index, step in enumerate(steps) if len(step) <= room]
        cut = [index for index, step in enumerate(steps) if len(step) > room]
        rows = []
        if whole:
            known = self._cache.match(prefix_ids)
            start = sum(kv.shape[-2] for kv in known)
            if self._is_computed_by(taken, prefix_ids, start):
                return []
            tree = token_tree([prefix_ids[start:] + steps[index] for index in whole])
            rows.append(_Row(job, whole, known, start, tree, is_cut=False))
        if cut:
            tree = token_tree([judged_ids(prefix_ids, steps[index], self._max_length) for index in cut])
            rows.append(_Row(job, cut, [], 0, tree, is_cut=True))
        return rows

    def _is_computed_by(self, taken: list[_Row], prefix_ids: tuple[int, ...], start: int) -> bool:
        """Whether one of the rows taken computes a good part of what is not known of this prefix."""
        end = start + _WORTH_WAITING_FOR
        return (
            len(prefix_ids) >= end
            and self._cache.can_hold(len(prefix_ids))
            and any(row.job.request.prefix_ids[:end] == prefix_ids[:end] for row in taken if not row.is_cut)
        )

    # --- the pass ---

    def _pass(self, rows: list[_Row]) -> None:
        """Compute the scores of the rows' steps."""
        width = max(len(row.tree) for row in rows)
        ids, positions, ends, read_at = [], [], [], []
        for index, row in enumerate(rows):
            tree, padding = row.tree, width - len(row.tree)
            ids.append(tree.token_ids + [PADDING_ID] * padding)
            positions.append([row.num_known + position for position in tree.positions] + [0] * padding)
            ends.append([*tree.subtree_ends, *range(len(tree) + 1, width + 1)])  # padding sees itself
            read_at += [index * width + last for last in tree.last_tokens]
        ids_positions_ends = torch.tensor((ids, positions, ends), device=self._shape.device)
        cache = TreeCache(self._shape, [row.known for row in rows], visible(ids_positions_ends[2]))
        scores_S = self._model.read(
            ids_positions_ends[0],
            ids_positions_ends[1],
            cache.mask,
            torch.tensor(read_at, device=self._shape.device),
            cache,
        )
        scores = iter(search_values(scores_S, self._model.score_bound).tolist())
        for index, row in enumerate(rows):
            for step in row.steps:
                row.job.scores[step] = next(scores)
            if not row.is_cut:
                self._keep(index, row, cache)
        self.stats.passes += 1
        self.stats.scored_steps += len(read_at)
        self.stats.computed_tokens += sum(len(row.tree) for row in rows)
        self.stats.padded_tokens += width * len(rows)
        self.stats.cached_tokens += sum(row.num_known for row in rows)

    def _keep(self, index: int, row: _Row, cache: TreeCache) -> None:
        """Prefix and steps of a row into the prefix cache."""
        prefix_ids, start = row.job.request.prefix_ids, row.num_known

        def computed(fed: Sequence[int], at: int) -> Tensor:
            return cache.computed(index, fed[at - start :])

        # The prefix by itself first: its steps then hang below it, and nothing has to be cut in two.
        self._cache.insert(prefix_ids, start, partial(computed, range(len(prefix_ids) - start)))
        for sequence, step in enumerate(row.steps):
            path = row.tree.path(sequence)
            self._cache.insert(prefix_ids + row.job.request.steps[step], start, partial(computed, path))


def _size(row: _Row) -> int:
    """Rows of one size share a pass: each is more than half as wide as the widest, so less than half of it is padding."""
    return max(len(row.tree), _MIN_WIDTH).bit_length()
