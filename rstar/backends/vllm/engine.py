"""vLLM's continuous batching as an engine of the replica pool: one request of vLLM's for each candidate.

What this file does not cover: how vLLM is set up (`settings`), processes and who gets which request
(`rstar.backends.pool`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rstar.backends.stats import EngineStats
from rstar.backends.stops import StopFinder, TextDecoder
from rstar.errors import BackendError
from rstar.protocols import Candidate, FinishReason, ProposeRequest
from rstar.seeds import derive

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine


@dataclass(slots=True)
class _Job:
    job_id: int
    request: ProposeRequest
    finder: StopFinder
    candidates: list[Candidate | None]
    num_open: int


class VLLMEngine:
    """Decodes many requests at once. `submit`, then `step` until `has_work` is false. Owned by one thread."""

    def __init__(
        self, engine: LLMEngine, decoder: TextDecoder, *, eos_ids: frozenset[int], max_context_tokens: int
    ) -> None:
        self.stats = EngineStats()
        self._engine = engine
        self._decoder = decoder
        self._eos_ids = eos_ids
        self._max_context_tokens = max_context_tokens
        self._jobs: dict[int, _Job] = {}
        self._finders: dict[tuple[str, ...], StopFinder] = {}
        self._finished: list[_Job] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs or self._finished)

    def reset(self) -> None:
        """vLLM's scheduler and workers may disagree after an error, so only a fresh engine is trusted."""
        raise BackendError("vLLM failed; the replica ends, and a fresh one takes its requests on")

    def submit(self, job_id: int, request: ProposeRequest) -> None:
        """Queue a request. Its prefix must not be empty, its ids within the vocabulary."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if (finder := self._finders.get(request.stop)) is None:
            finder = self._finders[request.stop] = StopFinder(request.stop, self._decoder)
        num_candidates, sampling = request.num_candidates, request.sampling
        limit = min(sampling.max_step_tokens, self._max_context_tokens - len(request.prefix_ids))
        job = _Job(job_id, request, finder, [None] * num_candidates, num_candidates)
        if limit <= 0 or num_candidates == 0:
            nothing = Candidate(text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH)
            job.candidates = [nothing] * num_candidates
            self._finished.append(job)
            return
        self._jobs[job_id] = job
        prompt = {"prompt_token_ids": list(request.prefix_ids)}
        for index in range(num_candidates):
            params = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=limit,
                seed=derive(request.seed, "candidate", index),
                stop=[text for text in request.stop if text],
                include_stop_str_in_output=True,
                stop_token_ids=sorted(self._eos_ids),
                skip_special_tokens=False,
                spaces_between_special_tokens=False,
                logprobs=0,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )
            self._engine.add_request(f"{job_id}.{index}", prompt, params)

    def cancel(self, job_id: int) -> None:
        """Forget a request."""
        self._finished = [job for job in self._finished if job.job_id != job_id]
        if (job := self._jobs.pop(job_id, None)) is not None:
            open_ones = [index for index, found in enumerate(job.candidates) if found is None]
            self._engine.abort_request([f"{job_id}.{index}" for index in open_ones])

    def step(self) -> list[tuple[int, list[Candidate]]]:
        """One token for every candidate in the batch; returns the requests that are now complete."""
        started_s = time.perf_counter()
        if self._jobs:
            for output in self._engine.step():
                self._take(output)
            self.stats.steps += 1
        finished, self._finished = self._finished, []
        self.stats.busy_s += time.perf_counter() - started_s
        return [(job.job_id, [c for c in job.candidates if c is not None]) for job in finished]

    def _take(self, output: RequestOutput) -> None:
        job_id, index = map(int, output.request_id.split("."))
        if not output.finished or (job := self._jobs.get(job_id)) is None:
            return
        candidate = job.candidates[index] = self._candidate(job.finder, output.outputs[0])
        num_prefix, num_cached = len(job.request.prefix_ids), output.num_cached_tokens or 0
        self.stats.prefill_tokens += num_prefix
        self.stats.cached_tokens += num_cached
        self.stats.generated_tokens += len(candidate.token_ids)
        self.stats.rows += num_prefix - num_cached + len(candidate.token_ids) - 1
        job.num_open -= 1
        if job.num_open == 0:
            self._finished.append(self._jobs.pop(job_id))

    def _candidate(self, finder: StopFinder, completion: CompletionOutput) -> Candidate:
        """Ids, text and log-probabilities, by our reading of the stop texts: vLLM's agrees on where to end, and with
        asynchronous scheduling may have gone on for a token."""
        ids = tuple(completion.token_ids)
        assert completion.logprobs is not None
        logprobs = tuple(at[token_id].logprob for token_id, at in zip(ids, completion.logprobs, strict=True))
        ends = (
            at
            for at, token_id in enumerate(ids, 1)
            if finder.may_complete(token_id) and finder.find(ids[:at])
        )
        end = next(ends, None)
        text = self._decoder.decode(ids[:end])
        stopped = end is not None or completion.finish_reason == "stop"
        return Candidate(
            text=text if end is None else finder.cut(text),
            token_ids=ids[:end],
            logprobs=logprobs[:end],
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        )
