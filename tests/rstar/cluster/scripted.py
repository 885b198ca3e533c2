"""Scripted engines that can be pickled, for workers in other processes: slow, deadly or broken on demand.

What happens once happens once on the whole cluster: a file in a common folder says that it has.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from rstar import campaign
from rstar.backends.scripted import ChainWorld, ScriptedPolicy, ScriptedValue
from rstar.campaign import search_into_store
from rstar.config import Guidance, SearchConfig
from rstar.engines import EngineConfig
from rstar.errors import BackendError
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig
from rstar.problems import Problem
from rstar.protocols import Candidate, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.searcher import LocalSearcher, OpenSearcher
from rstar.store import Store
from rstar.tree import Tree
from tests.rstar.fakes import InProcessSandbox

WORLD = ChainWorld(num_operations=3, slip=0.3)
SEARCH = SearchConfig(num_rollouts=3, num_candidates=3)
SEED = 5
ENGINE = EngineConfig(max_trees_in_flight=4)


@dataclass(frozen=True, kw_only=True)
class Script:
    """How the engines of every worker behave."""

    folder: Path
    """Of the files that say what has happened."""
    latency_s: float = 0.0
    kill_at: int = 0
    """The first worker to get its request of this number dies of it, by SIGKILL."""
    fail_from: int = 0
    """From its request of this number on, the first worker to get there fails them all."""
    deadly: str = ""
    """The tree whose requests kill any worker."""

    def engines(self) -> AbstractAsyncContextManager[tuple[Engines, Grader]]:
        return _engines(self)

    def once(self, what: str) -> bool:
        """True for the first on the whole cluster to ask."""
        try:
            with (self.folder / what).open("x") as file:
                file.write(f"{os.getpid()}\n")
        except FileExistsError:
            return False
        return True

    def note(self, what: str, line: str) -> None:
        with (self.folder / what).open("a") as file:
            file.write(line + "\n")

    def noted(self, what: str) -> list[str]:
        path = self.folder / what
        return path.read_text().splitlines() if path.exists() else []


class ScriptedEngine(ScriptedPolicy):
    def __init__(self, script: Script) -> None:
        super().__init__(WORLD.respond)
        self._script = script
        self._requests = 0
        self._failing = False
        self._met: set[str] = set()

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        script = self._script
        self._requests += 1
        if request.group not in self._met:
            self._met.add(request.group)
            script.note("started", f"{os.getpid()} {request.group}")
        if request.group == script.deadly or (self._requests == script.kill_at and script.once("killed")):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._requests == script.fail_from and script.once("failing"):
            self._failing = True
        if self._failing:
            raise BackendError("the GPU has fallen off the bus")
        await asyncio.sleep(script.latency_s)
        return await super().propose(request)


@asynccontextmanager
async def _engines(script: Script) -> AsyncIterator[tuple[Engines, Grader]]:
    with Grader() as grader:
        yield Engines(policy=ScriptedEngine(script), sandbox=InProcessSandbox()), grader


def open_value() -> ScriptedValue:
    return ScriptedValue(lambda text: (len(text) % 7 - 3) / 3)


def search_into(
    store: Store,
    script: Script,
    open_searcher: OpenSearcher = LocalSearcher.open,
    *,
    problems: Sequence[Problem],
    search: SearchConfig = SEARCH,
    engine: EngineConfig = ENGINE,
    **more: Any,
) -> list[str]:
    """`search_into_store` with these engines."""
    opened = partial(_opened, script)
    guided = search.guidance is Guidance.PPM
    with mock.patch.object(campaign, "open_engines", opened):
        return asyncio.run(
            search_into_store(
                problems, model=script.folder, store=store, round_index=1, label="search", search=search,
                sandbox=SandboxConfig(), grading=GraderConfig(), prompt_format="bare", seed=SEED,
                engine=engine, open_value=open_value if guided else None, open_searcher=open_searcher, **more,
            )
        )  # fmt: skip


def _opened(script: Script, *_: object) -> AbstractAsyncContextManager[tuple[Engines, Grader]]:
    return script.engines()


def trees_of(store: Store) -> dict[str, Tree]:
    return {tree.name: tree for tree in store.trees(1)}
