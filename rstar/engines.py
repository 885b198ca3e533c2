"""Opens what a search asks for work: the policy, the sandbox, the grader, and closes them whatever happens."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rstar.backends.openai.config import OpenAIConfig
from rstar.backends.vllm.config import VLLMConfig
from rstar.config import require
from rstar.evaluation import Engines
from rstar.protocols import PolicyBackend

if TYPE_CHECKING:
    from rstar.grading import Grader, GraderConfig
    from rstar.sandbox import SandboxConfig


class Backend(StrEnum):
    """What runs the models."""

    TRANSFORMERS = "transformers"
    """Our engine over transformers, on CPU or one GPU."""
    VLLM = "vllm"
    """vLLM, on GPUs; policy and preference model."""
    OPENAI = "openai"
    """A server with OpenAI's API; the preference model runs over transformers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How models, sandbox and grader are run. Decides speed; of two back-ends, also which random numbers are drawn."""

    backend: Backend = Backend.TRANSFORMERS
    vllm: VLLMConfig = dataclasses.field(default_factory=VLLMConfig)
    openai: OpenAIConfig = dataclasses.field(default_factory=OpenAIConfig)
    num_replicas: int | None = None
    """Policy processes of transformers; 0: the model in this process; null: one per core on a CPU, 0 on a GPU."""
    dtype: str = "auto"
    """Numbers the model computes in: float32, bfloat16, or auto (the model's own)."""
    max_batch_rows: int = 128
    """Candidates that one replica decodes at a time."""
    prefix_cache_mb: int = 256
    """Memory of one replica of transformers for the keys and values of prefixes; vLLM has `vllm.kv_cache_mb`."""
    max_trees_in_flight: int = 96

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "prefix_cache_mb", "max_trees_in_flight"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        replicas = self.num_replicas
        require(replicas is None or replicas >= 0, "num_replicas", replicas, "at least 0, or null")
        allowed = "null with vllm, whose engines are vllm.num_engines and vllm.num_ppm_engines"
        require(replicas is None or self.backend is not Backend.VLLM, "num_replicas", replicas, allowed)

    @property
    def num_gpus(self) -> int:
        """GPUs that the engines of one machine take, if it has any."""
        match self.backend:
            case Backend.VLLM:
                return self.vllm.num_gpus
            case Backend.TRANSFORMERS:
                return 1
            case Backend.OPENAI:
                return 0


class ModelPolicy(PolicyBackend, Protocol):
    """A policy over a model, which takes a while to get ready."""

    async def start(self) -> None:
        """Make ready; `propose` does it by itself. Raises ConfigError or BackendError if that cannot be."""
        ...


def open_policy(model: Path, engine: EngineConfig) -> ModelPolicy:
    """The policy in a model folder (for a server: the folder of its tokenizer), over the back-end of `engine`; not started.

    Raises ConfigError for a folder or a setting that cannot be used.
    """
    match engine.backend:
        case Backend.TRANSFORMERS:
            from rstar.backends.transformers import TransformersPolicy

            return TransformersPolicy(
                model,
                num_replicas=engine.num_replicas,
                dtype=engine.dtype,
                max_batch_rows=engine.max_batch_rows,
                prefix_cache_mb=engine.prefix_cache_mb,
            )
        case Backend.VLLM:
            from rstar.backends.vllm.policy import VLLMPolicy

            return VLLMPolicy(model, engine.vllm, dtype=engine.dtype, max_batch_rows=engine.max_batch_rows)
        case Backend.OPENAI:
            from rstar.backends.openai.policy import OpenAIPolicy

            return OpenAIPolicy(model, engine.openai)


@asynccontextmanager
async def open_engines(
    model: Path, config: EngineConfig, sandbox: SandboxConfig, grading: GraderConfig
) -> AsyncIterator[tuple[Engines, Grader]]:
    """A policy from a model folder, a sandbox and a grader, started; closed when the context ends.

    Raises ConfigError for a model that cannot be used, SandboxError for a sandbox that cannot be had.
    """
    from rstar.grading import Grader
    from rstar.sandbox import SandboxPool

    async with AsyncExitStack() as stack:
        pool = SandboxPool(sandbox)
        stack.push_async_callback(pool.aclose)
        await pool.start()
        grader = Grader(grading)
        stack.push_async_callback(grader.aclose)
        policy = open_policy(model, config)
        stack.push_async_callback(policy.aclose)
        await policy.start()
        yield Engines(policy=policy, sandbox=pool), grader
