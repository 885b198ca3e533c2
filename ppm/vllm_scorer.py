"""A trained preference model as the value back-end of a search, over vLLM's pooling runner.

Only what is new of a sequence goes through the model: the rest comes from vLLM's prefix cache, by whole blocks of tokens.
The bound is vLLM's own, which config.json names (see `model`), so the scores are those of `PPMScorer`.

What this file does not cover: how vLLM is started (`rstar.backends.vllm.settings`), processes and who gets which request
(`rstar.backends.pool`).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppm.siblings import SiblingReader, Siblings
from rstar.backends.pool import ReplicaPool
from rstar.backends.stats import Totals
from rstar.backends.vllm.config import VLLMConfig
from rstar.backends.vllm.settings import LLMSettings, check_installed, environments, llm_settings
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest

if TYPE_CHECKING:
    from vllm import PoolingRequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

    from ppm.config import ScoreBound


@dataclass(slots=True)
class VLLMScoringStats(Totals):
    """Running totals of one engine, or of several together: `prompt_tokens` are those of all sequences, of which
    `prefix_tokens` stand before the steps; `cached_tokens` needed no computing. `busy_s` is the wall time spent in steps."""

    scored_steps: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    prefix_tokens: int = 0
    cached_tokens: int = 0
    busy_s: float = 0.0

    @property
    def cache_hit_share(self) -> float:
        """Share of the prefixes' tokens that came from the prefix cache; 0 before the first."""
        return self.cached_tokens / self.prefix_tokens if self.prefix_tokens else 0.0


@dataclass(slots=True)
class _Job:
    job_id: int
    request: Siblings
    scores: list[float | None]
    num_open: int


class VLLMScoringEngine:
    """Scores many requests at once, each step of a request as a sequence of vLLM's."""

    def __init__(self, engine: LLMEngine, score_bound: ScoreBound, *, max_length: int) -> None:
        self.stats = VLLMScoringStats()
        self._engine = engine
        self._score_bound = score_bound
        self._max_length = max_length
        self._jobs: dict[int, _Job] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs)

    def reset(self) -> None:
        """vLLM's scheduler and workers may disagree after an error, so only a fresh engine is trusted."""
        raise BackendError("vLLM failed; the replica ends, and a fresh one takes its requests on")

    def submit(self, job_id: int, request: Siblings) -> None:
        """Queue a request: siblings together, so that the first one's prefix serves all."""
        from vllm import PoolingParams

        from ppm.batches import judged_ids

        count = len(request.steps)
        self._jobs[job_id] = _Job(job_id, request, [None] * count, count)
        for index, step in enumerate(request.steps):
            prompt = {"prompt_token_ids": list(judged_ids(request.prefix_ids, step, self._max_length))}
            self._engine.add_request(f"{job_id}.{index}", prompt, PoolingParams(task="classify"))

    def cancel(self, job_id: int) -> None:
        """Forget a request."""
        if (job := self._jobs.pop(job_id, None)) is not None:
            open_ones = [index for index, found in enumerate(job.scores) if found is None]
            self._engine.abort_request([f"{job_id}.{index}" for index in open_ones])

    def step(self) -> list[tuple[int, list[float]]]:
        """One pass of vLLM's; returns the scores, in [-1, 1], of the requests that are now complete."""
        started_s = time.perf_counter()
        finished = []
        for output in self._engine.step():
            if (job := self._take(output)) is not None:
                finished.append((job.job_id, [score for score in job.scores if score is not None]))
        self.stats.steps += 1
        self.stats.busy_s += time.perf_counter() - started_s
        return finished

    def _take(self, output: PoolingRequestOutput) -> _Job | None:
        """Note a score; the job that is complete with it."""
        from ppm.model import search_values

        job_id, index = map(int, output.request_id.split("."))
        if (job := self._jobs.get(job_id)) is None:
            return None
        if output.error is not None:
            raise BackendError(f"vLLM could not score: {output.error}")
        job.scores[index] = search_values(output.outputs.data, self._score_bound).item()
        self.stats.scored_steps += 1
        num_tokens = len(output.prompt_token_ids)
        self.stats.prompt_tokens += num_tokens
        self.stats.prefix_tokens += num_tokens - len(job.request.steps[index])
        self.stats.cached_tokens += output.num_cached_tokens
        job.num_open -= 1
        return self._jobs.pop(job_id) if job.num_open == 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMScoringSettings:
    """What a scoring engine is built from."""

    llm: LLMSettings
    max_length: int
    device: str = "vllm"

    def load(self) -> VLLMScoringEngine:
        """Raises ConfigError with one line if the folder holds no preference model, or vLLM does not start with it."""
        from ppm.model import read_bound
        from rstar.backends.loading import read_config

        folder = self.llm.model
        config = read_config(folder)
        architecture = (config.architectures or ["nothing"])[0]
        if not architecture.endswith("ForSequenceClassification"):
            raise ConfigError(
                f"model folder {folder}: config.json names {architecture} as its architecture; a preference model's is one "
                "for sequence classification"
            )
        bound = read_bound(config, folder)
        return VLLMScoringEngine(self.llm.start(runner="pooling"), bound, max_length=self.max_length)


class VLLMScorer:
    """`ValueBackend` over the preference model in a folder. Belongs to the event loop that first awaits it.

    `config.num_ppm_engines` processes with an engine each, of `config.ppm_tensor_parallel` GPUs; an engine scores at most
    `max_batch_rows` sequences at once. `reads_ids` and `max_length` are those of `PPMScorer`.

    Raises ConfigError if vLLM is missing, the folder holds no model or a setting does not fit it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: VLLMConfig | None = None,
        *,
        reads_ids: bool = True,
        dtype: str = "auto",
        max_length: int | None = None,
        max_batch_rows: int = 128,
    ) -> None:
        check_installed()
        config = config or VLLMConfig()
        path = Path(model).resolve()
        self._reader = SiblingReader(path, reads_ids=reads_ids, max_length=max_length)
        llm = llm_settings(
            path, config, dtype=dtype, max_rows=max_batch_rows, tensor_parallel=config.ppm_tensor_parallel,
            memory_share=config.ppm_memory_share, max_model_len=self._reader.max_length,
        )  # fmt: skip
        self._pool = ReplicaPool(
            VLLMScoringSettings(llm=llm, max_length=self._reader.max_length),
            num_replicas=config.num_ppm_engines,
            max_imbalance=64 * max_batch_rows,
            kind="value back-end",
            model=path,
            totals=VLLMScoringStats,
            environments=environments(config.ppm_groups, "vllm.ppm_devices"),
        )

    @property
    def num_replicas(self) -> int:
        """Engines, each a process."""
        return self._pool.num_replicas

    def stats(self) -> VLLMScoringStats:
        """Totals over all engines, as of their last replies."""
        return self._pool.stats()

    async def start(self) -> None:
        """Start all engines; `score` does it by itself. Raises ConfigError if the folder holds no preference model, or one
        that cannot be used here."""
        await self._pool.start()

    async def score(self, request: ScoreRequest) -> list[float]:
        """One value in [-1, 1] per step. Raises BackendError for a step that the model has no room for, ids outside its
        vocabulary, or an engine that cannot answer."""
        siblings = self._reader.read(request)
        if not siblings.steps:
            return []
        load = sum(map(len, siblings.steps))  # the new tokens, where the prefix is known
        return await self._pool.ask(siblings, group=request.group, load=load)

    async def aclose(self) -> None:
        """End all engines; requests still waiting raise BackendError."""
        await self._pool.aclose()
