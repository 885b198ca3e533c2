"""A trained preference model as the value back-end of a search, over transformers.

On a CPU the model runs in a process of its own, away from the search's event loop; on a GPU in a thread of this process.

What this file does not cover: what is computed (`scoring_engine`), processes and who gets which request
(`rstar.backends.pool`). vLLM serves the same folder, see docs/ppm.md.
"""

from __future__ import annotations

import os
from pathlib import Path

from ppm.scoring_engine import ScoringStats, Siblings
from ppm.scoring_settings import ScoringSettings
from rstar.backends.loading import read_config, read_tokenizer
from rstar.backends.pool import ReplicaPool, choose_replicas
from rstar.engines import EngineConfig
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest
from rstar.training.folder import TRAINING, read_json


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
        config = read_config(path)
        device, num_replicas = choose_replicas(device, num_replicas, on_cpu=1)
        context: int = config.max_position_embeddings
        if max_length is not None and not 1 <= max_length <= context:
            raise ConfigError(
                f"max_length is {max_length}; it must be at least 1 and at most the model's {context}"
            )
        self._vocab_size: int = config.vocab_size
        self._max_length = max_length or context
        self._tokenizer = None if reads_ids else read_tokenizer(path)
        settings = ScoringSettings(
            model=path,
            device=device,
            dtype=dtype,
            max_length=self._max_length,
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
        siblings = self._read(request)
        if not siblings.steps:
            return []
        load = sum(map(len, siblings.steps))  # the new tokens, where the prefix is known
        return await self._pool.ask(siblings, group=request.group, load=load)

    async def aclose(self) -> None:
        """End all replicas; requests still waiting raise BackendError."""
        await self._pool.aclose()

    def _read(self, request: ScoreRequest) -> Siblings:
        """The request in the model's own ids, checked."""
        if self._tokenizer is None:
            siblings = Siblings(request.prefix_ids, request.step_ids)
        else:
            siblings = Siblings(
                self._encode(request.prefix_text), tuple(map(self._encode, request.step_texts))
            )
        if not all(siblings.steps):
            raise BackendError("a request with an empty step; there is nothing to score")
        longest = max(map(len, siblings.steps), default=0)
        if longest > self._max_length:
            raise BackendError(
                f"a request has {longest} tokens to judge; max_length is {self._max_length}, the model's own or the one "
                "asked for"
            )
        for ids in (siblings.prefix_ids, *siblings.steps):
            if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
                raise BackendError(
                    f"a request with token ids outside the model's vocabulary of {self._vocab_size}"
                )
        return siblings

    def _encode(self, text: str) -> tuple[int, ...]:
        assert self._tokenizer is not None
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def open_scorer(folder: Path, engine: EngineConfig) -> PPMScorer:
    """The preference model in a folder that `ppm.train` made: it cuts long prefixes as its training did. Where the policy
    runs in this process, so does it. Raises ConfigError if the folder holds no such model."""
    record = read_json(folder / TRAINING)
    if record is None:
        raise ConfigError(
            f"{folder} has no {TRAINING}; a preference model's folder is one that its training finished"
        )
    return PPMScorer(
        folder,
        max_length=record["settings"]["max_length"],
        num_replicas=0 if engine.num_replicas == 0 else None,
        dtype=engine.dtype,
    )
