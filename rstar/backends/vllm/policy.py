"""A policy on vLLM: any causal language model that vLLM serves, on GPUs or its CPU build.

What this file does not cover: processes and who gets which request (`rstar.backends.pool`), what a request becomes
(`engine`), how vLLM is started (`settings`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rstar.backends.pool import ReplicaPool
from rstar.backends.stats import EngineStats
from rstar.backends.tokenizer import ModelTokenizer
from rstar.backends.vllm.config import VLLMConfig
from rstar.backends.vllm.settings import (
    PolicySettings,
    check_installed,
    environments,
    llm_settings,
    model_length,
)
from rstar.protocols import Candidate, ProposeRequest


class VLLMPolicy:
    """A `PolicyBackend` over a Hugging Face model folder. Belongs to the event loop that first awaits it.

    `config.num_engines` processes with an engine each, of `config.tensor_parallel` GPUs; an engine decodes at most
    `max_batch_rows` candidates at once. Requests of one group go to the engine that has their prefixes cached, unless it is
    far busier than another.

    Log-probabilities are of the model's own distribution (temperature 1, nothing cut), whatever the sampling. A completion
    also ends at the model's end-of-sequence token, which stays in its ids and text.

    Raises ConfigError with one line if vLLM is missing, or the folder, its tokenizer, a device or a number is wrong.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: VLLMConfig | None = None,
        *,
        dtype: str = "auto",
        max_batch_rows: int = 128,
    ) -> None:
        check_installed()
        config = config or VLLMConfig()
        path = Path(model).resolve()
        self._tokenizer = ModelTokenizer(path)
        self._max_context_tokens = model_length(path, config.max_model_len)
        llm = llm_settings(
            path, config, dtype=dtype, max_rows=max_batch_rows, tensor_parallel=config.tensor_parallel,
            memory_share=config.policy_memory_share, max_model_len=self._max_context_tokens,
        )  # fmt: skip
        self._pool = ReplicaPool(
            PolicySettings(llm=llm),
            num_replicas=config.num_engines,
            max_imbalance=max_batch_rows // 2,
            kind="policy back-end",
            model=path,
            totals=EngineStats,
            environments=environments(config.policy_groups, "vllm.devices"),
        )

    @property
    def max_context_tokens(self) -> int:
        """Tokens of prefix and completion together."""
        return self._max_context_tokens

    @property
    def num_replicas(self) -> int:
        """Engines, each a process."""
        return self._pool.num_replicas

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added (those that the text spells out are found)."""
        return self._tokenizer.encode(text)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages in the model's chat template, up to where the assistant's answer begins."""
        return self._tokenizer.render_chat(messages)

    def stats(self) -> EngineStats:
        """Totals over all engines, as of their last replies. Each candidate counts its prefix, of which all but the first
        candidate find most in the cache."""
        return self._pool.stats()

    async def start(self) -> None:
        """Start all engines; `propose` does it by itself. Raises ConfigError or BackendError if they do not start."""
        await self._pool.start()

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        """The candidates, by index. Text ends right after the first stop text; see `rstar.backends.stops`.

        A prefix that fills the context gets empty candidates with `FinishReason.LENGTH`. A caller that is cancelled aborts
        its request. Raises BackendError for an empty prefix, ids outside the vocabulary, or an engine that cannot answer.
        """
        self._tokenizer.check_prefix(request.prefix_ids)
        return await self._pool.ask(request, group=request.group, load=request.num_candidates)

    async def aclose(self) -> None:
        """End all engines; requests still waiting raise BackendError."""
        await self._pool.aclose()
