"""A trained preference model as the value back-end of a search, over transformers.

On a CPU the model runs in a process of its own, away from the search's event loop; on a GPU in a thread of this process.

What this file does not cover: what is computed (`scoring_engine`), processes and who gets which request
(`rstar.backends.pool`), the same over vLLM (`vllm_scorer`).
"""

from __future__ import annotations

import os
from pathlib import Path

from ppm.scoring_engine import ScoringStats
from ppm.scoring_settings import ScoringSettings
from ppm.siblings import SiblingReader
from rstar.backends.pool import ReplicaPool, choose_replicas
from rstar.protocols import ScoreRequest


class PPMScorer:
    """`ValueBackend` over the preference model in a folder. Belongs to the event loop that first awaits it.

    `reads_ids`: the model has the policy's tokenizer and reads the ids of a request; otherwise its texts, encoded anew.
    `num_replicas`: processes; None is one on a CPU; 0 runs the model in a thread of this process, which CUDA always does.
    `max_length` bounds one sequence in tokens (default: all that the model takes): of a longer one the left of the
    prefix goes, never the step. Per replica: `max_pass_tokens` bounds the new tokens that one pass computes (a single
    request may be longer), `prefix_cache_mb` the keys and values kept for later requests.

    Raises ConfigError if the folder holds no model or a setting does not fit it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        reads_ids: bool = True,
        num_replicas: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        max_pass_tokens: int = 16384,
        prefix_cache_mb: int = 512,
    ) -> None:
        path = Path(model).resolve()
        self._reader = SiblingReader(path, reads_ids=reads_ids, max_length=max_length)
        device, num_replicas = choose_replicas(device, num_replicas, on_cpu=1)
        settings = ScoringSettings(
            model=path,
            device=device,
            dtype=dtype,
            max_length=self._reader.max_length,
            max_pass_tokens=max_pass_tokens,
            prefix_cache_mb=prefix_cache_mb,
        )
        self._pool = ReplicaPool(
            settings,
            num_replicas=num_replicas,
            max_imbalance=max_pass_tokens // 2,
            kind="value back-end",
            model=path,
            totals=ScoringStats,
        )

    @property
    def num_replicas(self) -> int:
        """Processes; 0 if the model runs in this one."""
        return self._pool.num_replicas

    def stats(self) -> ScoringStats:
        """Totals over all replicas, as of their last replies."""
        return self._pool.stats()

    async def start(self) -> None:
        """Load the model everywhere; `score` does it by itself. Raises ConfigError if the folder holds no preference model,
        or one that cannot be used here."""
        await self._pool.start()

    async def score(self, request: ScoreRequest) -> list[float]:
        """One value in [-1, 1] per step. Raises BackendError for a step that the model has no room for, ids outside its
        vocabulary, or a model that cannot answer."""
        siblings = self._reader.read(request)
        if not siblings.steps:
            return []
        load = sum(map(len, siblings.steps))  # the new tokens, where the prefix is known
        return await self._pool.ask(siblings, group=request.group, load=load)

    async def aclose(self) -> None:
        """End all replicas; requests still waiting raise BackendError."""
        await self._pool.aclose()
