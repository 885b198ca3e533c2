"""A scripted search into a store, pass after pass, killed at a request: `python -m tests.rstar.campaign_run store kill_at`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from rstar import campaign
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.campaign import UnsolvedPass
from rstar.config import SearchConfig
from rstar.engines import EngineConfig
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig
from rstar.problems import Problem
from rstar.protocols import Candidate, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.store import Store
from tests.rstar.fakes import InProcessSandbox

WORLD = ChainWorld(num_operations=4, slip=0.3)
PROBLEMS = WORLD.problems(12)
SEARCH = SearchConfig(num_rollouts=2, num_candidates=2)
PASSES = (
    UnsolvedPass(num_rollouts=4),
    UnsolvedPass(num_rollouts=7),
    UnsolvedPass(num_rollouts=7, tree_index=1),
)
SEED = 5


class CountingPolicy(ScriptedPolicy):
    """Kills the process at its request of number `kill_at`, from 1; counts them all."""

    def __init__(self, kill_at: int = 0) -> None:
        super().__init__(WORLD.respond)
        self.kill_at = kill_at
        self.num_requests = 0

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self.num_requests += 1
        if self.num_requests == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().propose(request)


def search_into(
    store: Store,
    policy: ScriptedPolicy,
    *,
    problems: Sequence[Problem] = PROBLEMS,
    search: SearchConfig = SEARCH,
    max_trees_in_flight: int = 3,
    **more: Any,
) -> list[str]:
    """`search_into_store` with this policy and a sandbox in this process."""

    @asynccontextmanager
    async def engines(*_: object) -> AsyncIterator[tuple[Engines, Grader]]:
        with Grader() as grader:
            yield Engines(policy=policy, sandbox=InProcessSandbox()), grader

    with mock.patch.object(campaign, "open_engines", engines):
        return asyncio.run(
            campaign.search_into_store(
                problems, model=Path("none"), store=store, round_index=1, label="search", search=search,
                sandbox=SandboxConfig(), grading=GraderConfig(), prompt_format="bare", seed=SEED,
                engine=EngineConfig(max_trees_in_flight=max_trees_in_flight), **more,
            )
        )  # fmt: skip


if __name__ == "__main__":
    folder, kill_at = sys.argv[1:]
    faults = search_into(Store.create(folder), CountingPolicy(int(kill_at)), unsolved=PASSES)
    assert not faults, faults
