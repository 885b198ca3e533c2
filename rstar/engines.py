"""Opens what a search asks for work: the policy, the sandbox, the grader, and closes them whatever happens."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rstar.config import require
from rstar.evaluation import Engines

if TYPE_CHECKING:
    from rstar.grading import Grader, GraderConfig
    from rstar.sandbox import SandboxConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How models, sandbox and grader are run. Decides speed and, but for floating-point noise, no result."""

    num_replicas: int | None = None
    """Policy processes; 0: the model in this process; null: one per core on a CPU, 0 on a GPU."""
    dtype: str = "auto"
    """Numbers the model computes in: float32, bfloat16, or auto (the model's own)."""
    max_batch_rows: int = 128
    """Candidates that one replica decodes at a time."""
    prefix_cache_mb: int = 256
    """Memory of one replica for the keys and values of prefixes."""
    max_trees_in_flight: int = 96

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "prefix_cache_mb", "max_trees_in_flight"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        replicas = self.num_replicas
        require(replicas is None or replicas >= 0, "num_replicas", replicas, "at least 0, or null")


@asynccontextmanager
async def open_engines(
    model: Path, config: EngineConfig, sandbox: SandboxConfig, grading: GraderConfig
) -> AsyncIterator[tuple[Engines, Grader]]:
    """A policy from a model folder, a sandbox and a grader, started; closed when the context ends.

    Raises ConfigError for a model that cannot be used, SandboxError for a sandbox that cannot be had.
    """
    from rstar.backends.transformers import TransformersPolicy
    from rstar.grading import Grader
    from rstar.sandbox import SandboxPool

    async with AsyncExitStack() as stack:
        pool = SandboxPool(sandbox)
        stack.push_async_callback(pool.aclose)
        await pool.start()
        grader = Grader(grading)
        stack.push_async_callback(grader.aclose)
        policy = TransformersPolicy(
            model,
            num_replicas=config.num_replicas,
            dtype=config.dtype,
            max_batch_rows=config.max_batch_rows,
            prefix_cache_mb=config.prefix_cache_mb,
        )
        stack.push_async_callback(policy.aclose)
        await policy.start()
        yield Engines(policy=policy, sandbox=pool), grader
