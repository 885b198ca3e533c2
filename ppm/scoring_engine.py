"""Scores of steps, batched and with what is known kept: each pass of the model computes only what is new.

A request is a prefix and the steps that may follow it. The longest known beginning of the prefix comes from a cache of
keys and values; the rest of the prefix and all its steps, as one tree of tokens, are a row of the batch. What a pass
computes stays in the cache, so the requests that continue one of the steps find everything up to there.

The engine is synchronous and owned by one thread. What this file does not cover: processes (`rstar.backends.pool`),
asking from a search (`scorer`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ppm.batches import PADDING_ID, judged_ids, lay_out
from ppm.model import ProcessPreferenceModel, load, visible
from ppm.token_tree import TokenTree, token_tree
from rstar.backends.attention import TreeCache
from rstar.backends.kv_pool import KVShape
from rstar.backends.loading import check_device, check_dtype, kv_shape, one_line
from rstar.backends.prefix_cache import PrefixCache
from rstar.backends.stats import Totals
from rstar.errors import ConfigError

_WORTH_WAITING_FOR = 16
"""A request waits for another one's pass if that computes so many tokens, or more, of its own prefix."""
_COLUMNS_PER_TOKEN = 8
"""Columns of keys and values in one pass, known ones and padding included, for each token of `max_pass_tokens`."""


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


@dataclass(frozen=True, slots=True)
class Siblings:
    """Steps, at least one, that may follow one prefix. Ids are within the vocabulary, and a step has at least one of them
    and at most `max_length`."""

    prefix_ids: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _Job:
    job_id: int
    request: Siblings


@dataclass(slots=True)
class _Row:
    """Some steps of a job, those at `steps`, whose beginning of `num_known` tokens is `known` and whose rest is `tree`."""

    job: _Job
    steps: list[int]
    known: list[Tensor]
    num_known: int
    tree: TokenTree
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """What a scoring engine is built from. `device` is a torch device."""

    model: Path
    device: str
    dtype: str
    max_length: int
    max_pass_tokens: int
    prefix_cache_mb: int

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.max_pass_tokens < 1:
            raise ConfigError(f"max_pass_tokens is {self.max_pass_tokens}; it must be at least 1")
        if self.prefix_cache_mb < 0:
            raise ConfigError(
                f"prefix_cache_mb is {self.prefix_cache_mb}; it must be at least 0 (0: no cache)"
            )

    def load(self) -> ScoringEngine:
        """The model in an engine, checked. Raises ConfigError with one line otherwise."""
        check_device(self.device)
        model = load(self.model, dtype=self.dtype).eval().requires_grad_(False).to(self.device)
        engine = ScoringEngine(
            model,
            kv_shape(model.trunk, self.model),
            max_length=self.max_length,
            max_pass_tokens=self.max_pass_tokens,
            prefix_cache_bytes=self.prefix_cache_mb << 20,
        )
        _check_engine(engine, model, self)
        return engine


class ScoringEngine:
    """Scores what waits, one pass of the model a step. `submit`, then `step` until `has_work` is false."""

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
        self._waiting.append(_Job(job_id, request))

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[float]]]:
        """One pass over what waits, the oldest first; returns the scores, in [-1, 1], of the requests that were in it."""
        started_s = time.perf_counter()
        rows = self._next_rows()
        found: dict[int, list[float]] = {}
        if rows:
            scores = iter(self._pass(rows))
            for row in rows:
                of_job = found.setdefault(row.job.job_id, [0.0] * len(row.job.request.steps))
                for step in row.steps:
                    of_job[step] = next(scores)
        self.stats.busy_s += time.perf_counter() - started_s
        return list(found.items())

    # --- what goes into a pass ---

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

    def _pass(self, rows: list[_Row]) -> list[float]:
        """Scores of the rows' steps, row by row."""
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
        for index, row in enumerate(rows):
            if not row.is_cut:
                self._keep(index, row, cache)
        self.stats.passes += 1
        self.stats.scored_steps += len(read_at)
        self.stats.computed_tokens += sum(len(row.tree) for row in rows)
        self.stats.padded_tokens += width * len(rows)
        self.stats.cached_tokens += sum(row.num_known for row in rows)
        scores: list[float] = (
            scores_S.float().clamp(-1, 1).tolist()
        )  # only an unbounded score is ever outside
        return scores

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


def _check_engine(engine: ScoringEngine, model: ProcessPreferenceModel, settings: ScoringSettings) -> None:
    """Compare the engine, once with everything new and once with most of it known, with the model by itself."""
    vocab_size: int = model.config.vocab_size
    length = min(24, engine._max_length // 2)
    ids = tuple((7919 * (at + 1)) % vocab_size for at in range(2 * length))
    kind = model.config.model_type
    refusal = f"model folder {settings.model}: this back-end cannot score with a {kind} model"
    largest = 0.0
    try:
        for job_id, end in enumerate(range(1, length, max(1, length // 3))):
            request = Siblings(ids[:end], (ids[end : end + length], ids[end : end + 2], ids[:1]))
            engine.submit(job_id, request)
            ((_, found),) = engine.step()
            exact = reference_scores(model, [request.prefix_ids + step for step in request.steps])
            largest = max(largest, *(abs(a - b) for a, b in zip(found, exact, strict=True)))
    except Exception as error:  # whatever an architecture trips over
        raise ConfigError(f"{refusal}: {one_line(error)}; use vLLM") from None
    tolerance = 1e-3 if torch.finfo(engine._shape.dtype).eps < 1e-5 else 0.3
    if not largest <= tolerance:
        raise ConfigError(f"{refusal}: its scores differ by {largest:.3g} from the model's own; use vLLM")
    engine.reset()
    engine.stats = ScoringStats()


def reference_scores(model: ProcessPreferenceModel, sequences: Sequence[tuple[int, ...]]) -> list[float]:
    """The scores of whole sequences, as in training: each in a row of its own, by one pass without any cache."""
    inputs = lay_out(sequences, range(len(sequences)), share_rows=False)
    with torch.inference_mode():
        scores_S = model(**{name: tensor.to(model.classifier.device) for name, tensor in inputs.items()})
    found: list[float] = scores_S.float().clamp(-1, 1).tolist()
    return found
