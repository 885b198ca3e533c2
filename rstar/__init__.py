"""Monte-Carlo tree search over code-augmented reasoning steps: the names that programs use.

    from rstar import Solver

    with Solver("models/policy", ppm="models/ppm") as solver:
        answer = solver.solve("what is 12 * 34?")

Each name is imported when it is first used, so `import rstar` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rstar.answers import Alternative, Answer, Cost, Finished, StepsFound, StopReason
    from rstar.config import SearchConfig
    from rstar.engines import EngineConfig
    from rstar.errors import (
        BackendError,
        ConfigError,
        FormatError,
        GradingError,
        ProblemError,
        RstarError,
        SandboxError,
        StageError,
        StoreError,
    )
    from rstar.problems import Problem
    from rstar.protocols import SamplingConfig
    from rstar.selection import Method
    from rstar.solver import Solver
    from rstar.strategies import Strategy
    from rstar.tree import Tree

__all__ = [
    "Alternative",
    "Answer",
    "BackendError",
    "ConfigError",
    "Cost",
    "EngineConfig",
    "Finished",
    "FormatError",
    "GradingError",
    "Method",
    "Problem",
    "ProblemError",
    "RstarError",
    "SamplingConfig",
    "SandboxError",
    "SearchConfig",
    "Solver",
    "StageError",
    "StepsFound",
    "StopReason",
    "StoreError",
    "Strategy",
    "Tree",
]

_HOMES = {
    "answers": ("Alternative", "Answer", "Cost", "Finished", "StepsFound", "StopReason"),
    "config": ("SearchConfig",),
    "engines": ("EngineConfig",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "problems": ("Problem",),
    "protocols": ("SamplingConfig",),
    "selection": ("Method",),
    "solver": ("Solver",),
    "strategies": ("Strategy",),
    "tree": ("Tree",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rstar' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rstar.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
