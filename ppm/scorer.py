"""A trained preference model as the value back-end of a search, over transformers.

Requests that wait while the model is busy are scored together in one pass; the steps of a request, and requests of one
tree among themselves, share the tokens of what they have in common. Scores do not depend on what shares the pass, but for
floating-point noise.

What this file does not cover: vLLM serves the same folder, see docs/ppm.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from ppm.batches import judged_ids, lay_out
from ppm.model import load, search_values
from rstar.backends.loading import check_device, read_tokenizer
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest


@dataclass(slots=True)
class _Waiting:
    sequences: list[tuple[int, ...]]
    group: str
    future: asyncio.Future[list[float]]


class PPMScorer:
    """`ValueBackend` over the preference model in a folder.

    `reads_ids`: the model has the policy's tokenizer and reads the ids of a request; otherwise its texts, encoded anew.
    `max_length` bounds one sequence in tokens (default: all that the model takes): of a longer one the left of the
    prefix goes, never the step. `max_pass_tokens` bounds what one pass takes together, before sharing; a single request
    may be longer. Raises ConfigError if the folder holds no preference model or a setting does not fit it.
    """

    def __init__(
        self,
        model: Path,
        *,
        reads_ids: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        max_pass_tokens: int = 16384,
    ) -> None:
        self._name = str(model)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        self._model = load(model, dtype=dtype).eval().requires_grad_(False).to(device)
        self._tokenizer = None if reads_ids else read_tokenizer(model)
        self._device = device
        context: int = self._model.config.max_position_embeddings
        if max_length is not None and not 1 <= max_length <= context:
            raise ConfigError(
                f"max_length is {max_length}; it must be at least 1 and at most the model's {context}"
            )
        if max_pass_tokens < 1:
            raise ConfigError(f"max_pass_tokens is {max_pass_tokens}; it must be at least 1")
        self._vocab_size: int = self._model.config.vocab_size
        self._max_length = max_length or context
        self._max_pass_tokens = max_pass_tokens
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ppm-scorer")
        self._closed = False
        self.num_passes = 0
        """Passes of the model so far."""

    async def score(self, request: ScoreRequest) -> list[float]:
        """One value in [-1, 1] per step. Raises BackendError for a step that the model has no room for, ids outside its
        vocabulary, or a model that cannot answer."""
        if self._closed:
            raise BackendError("this value back-end is closed")
        waiting = _Waiting(
            self._sequences(request), request.group, asyncio.get_running_loop().create_future()
        )
        if not waiting.sequences:
            return []
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.future

    async def aclose(self) -> None:
        """Requests still waiting raise BackendError; one in the model ends first."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    def _sequences(self, request: ScoreRequest) -> list[tuple[int, ...]]:
        if self._tokenizer is None:
            prefix_ids, steps = request.prefix_ids, list(request.step_ids)
        else:
            prefix_ids = self._encode(request.prefix_text)
            steps = [self._encode(text) for text in request.step_texts]
        if not all(steps):
            raise BackendError("a request with an empty step; there is nothing to score")
        try:
            sequences = [judged_ids(prefix_ids, step, self._max_length) for step in steps]
        except ValueError as error:
            raise BackendError(f"a request has {error}, the model's own or the one asked for") from None
        if any(not 0 <= min(ids) <= max(ids) < self._vocab_size for ids in sequences):
            raise BackendError(
                f"a request with token ids outside the model's vocabulary of {self._vocab_size}"
            )
        return sequences

    def _encode(self, text: str) -> tuple[int, ...]:
        assert self._tokenizer is not None
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    async def _work(self) -> None:
        """Score what waits until nothing does."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # requests made in the same turn of the loop go together
        while self._waiting:
            batch = self._next_batch()
            try:
                if self._closed:
                    raise BackendError("the value back-end was closed")
                values = await loop.run_in_executor(self._thread, self._pass, batch)
            except Exception as error:  # whatever the model raises is this request's answer
                failure = BackendError(f"the model in {self._name} could not answer: {error}")
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(failure)
                continue
            for waiting, found in zip(batch, values, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(found)

    def _next_batch(self) -> list[_Waiting]:
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.done()]
        tokens = count = 0
        for waiting in self._waiting:
            tokens += sum(map(len, waiting.sequences))
            if count and tokens > self._max_pass_tokens:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _pass(self, batch: Sequence[_Waiting]) -> list[list[float]]:
        """In the scorer's thread: one pass of the model."""
        if not batch:
            return []
        sequences = [ids for waiting in batch for ids in waiting.sequences]
        blocks = [waiting.group or index for index, waiting in enumerate(batch) for _ in waiting.sequences]
        inputs = lay_out(sequences, blocks, share_rows=True)
        with torch.inference_mode():
            scores = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()})
        values = search_values(scores, self._model.score_bound).tolist()
        self.num_passes += 1
        starts = [0]
        for waiting in batch:
            starts.append(starts[-1] + len(waiting.sequences))
        return [values[start:end] for start, end in pairwise(starts)]
