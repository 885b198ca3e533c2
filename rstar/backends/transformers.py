"""Any Hugging Face causal language model as a policy, on CPU or CUDA.

On CPU each core gets a process with one thread; on CUDA the engine runs in a thread of this process.

What this file does not cover: processes and who gets which request (`pool`), batching and sampling (`engine`), loading
and its checks (`loading`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rstar.backends.loading import EngineSettings, context_tokens
from rstar.backends.pool import ReplicaPool, choose_replicas
from rstar.backends.stats import EngineStats
from rstar.backends.tokenizer import ModelTokenizer
from rstar.protocols import Candidate, ProposeRequest


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
        self._tokenizer = ModelTokenizer(path)
        num_cores = len(os.sched_getaffinity(0))
        device, num_replicas = choose_replicas(device, num_replicas, on_cpu=num_cores)
        self._settings = EngineSettings(
            model=path.resolve(),
            device=device,
            dtype=dtype,
            max_batch_rows=max_batch_rows,
            max_context_tokens=context_tokens(path, max_context_tokens),
            kv_cache_mb=kv_cache_mb,
            prefix_cache_mb=prefix_cache_mb,
        )
        self._pool = ReplicaPool(
            self._settings,
            num_replicas=num_replicas,
            max_imbalance=max_batch_rows // 2,
            kind="policy back-end",
            model=self._settings.model,
            totals=EngineStats,
        )

    @property
    def max_context_tokens(self) -> int:
        """Tokens of prefix and completion together."""
        return self._settings.max_context_tokens

    @property
    def num_replicas(self) -> int:
        """Processes; 0 if the engine runs in this one."""
        return self._pool.num_replicas

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added (those that the text spells out are found)."""
        return self._tokenizer.encode(text)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages in the model's chat template, up to where the assistant's answer begins."""
        return self._tokenizer.render_chat(messages)

    def stats(self) -> EngineStats:
        """Totals over all replicas, as of their last replies."""
        return self._pool.stats()

    async def start(self) -> None:
        """Load the model everywhere; `propose` does it by itself. Raises ConfigError or BackendError if it cannot."""
        await self._pool.start()

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        """The candidates, by index. Text ends right after the first stop text; see `rstar.backends.stops`.

        A prefix that fills the context gets empty candidates with `FinishReason.LENGTH`.
        Raises BackendError for an empty prefix, ids outside the vocabulary, or a model that cannot answer.
        """
        self._tokenizer.check_prefix(request.prefix_ids)
        return await self._pool.ask(request, group=request.group, load=request.num_candidates)

    async def aclose(self) -> None:
        """End all replicas; requests still waiting raise BackendError."""
        await self._pool.aclose()
