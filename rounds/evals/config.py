"""Settings of an evaluation: frozen dataclasses that `rstar eval --set KEY=VALUE` changes."""

from __future__ import annotations

import dataclasses

from rstar.config import SearchConfig, require
from rstar.engines import EngineConfig
from rstar.grading import GraderConfig
from rstar.sandbox import SandboxConfig
from rstar.strategies import Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is compared, and how much of it."""

    search: SearchConfig
    """Of one tree: rollouts of MCTS, width of a beam, and how a step is sampled, for all strategies alike."""
    num_trajectories: int = 4
    """Trees of MCTS and of beam search per problem: the curves go over 1, 2, 4, … of them."""
    num_samples: int = 64
    """Independent samples per problem, shared by majority, best_of_n and pass@k."""
    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)
    grading: GraderConfig = dataclasses.field(default_factory=GraderConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name in ("num_trajectories", "num_samples"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


DEFAULT_STRATEGIES = tuple(Strategy)
