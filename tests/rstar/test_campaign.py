"""A search into a store, killed at random points and run again, ends in the trees of a search that was not."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rstar import campaign
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.config import SearchConfig
from rstar.engines import EngineConfig
from rstar.errors import ConfigError
from rstar.evaluation import Engines
from rstar.grading import GraderConfig
from rstar.problems import Problem
from rstar.sandbox import SandboxConfig
from rstar.store import Outcome, Store
from rstar.tree import Tree, check_invariants
from tests.rstar.fakes import InProcessSandbox, TextJudge

_SEARCH = """
import asyncio, sys
from contextlib import asynccontextmanager
from pathlib import Path
from rstar import campaign
from rstar.backends.scripted import ChainWorld
from rstar.config import SearchConfig
from rstar.engines import EngineConfig
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig
from rstar.sandbox import SandboxConfig, SandboxPool
from rstar.store import Store

world = ChainWorld(num_operations=3)

class SlowPolicy:
    max_context_tokens = 1 << 20
    policy = world.policy()
    encode, render_chat, aclose = policy.encode, policy.render_chat, policy.aclose
    async def propose(self, request):
        await asyncio.sleep(float(sys.argv[2]))
        return await self.policy.propose(request)

@asynccontextmanager
async def engines(model, config, sandbox, grading):
    async with SandboxPool(sandbox) as pool, Grader(grading) as grader:
        yield Engines(policy=SlowPolicy(), sandbox=pool), grader

campaign.open_engines = engines
faults = asyncio.run(campaign.search_into_store(
    world.problems(12), model=Path("none"), store=Store.create(sys.argv[1]), round_index=1, label="search",
    search=SearchConfig(num_rollouts=4, num_candidates=3), sandbox=SandboxConfig(num_shards=1),
    grading=GraderConfig(), engine=EngineConfig(max_trees_in_flight=3), prompt_format="bare", seed=5,
    progress_file=Path(sys.argv[1]) / "progress.json",
))
assert not faults, faults
"""


def run_search(store: Path, *, pause_s: float = 0.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _SEARCH, str(store), str(pause_s)], stderr=subprocess.DEVNULL
    )


def trees_of(store: Path) -> dict[str, Tree]:
    return {tree.name: tree for tree in Store(store).trees(1)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    assert run_search(store).wait() == 0
    return trees_of(store)


def test_an_undisturbed_search_stores_one_sound_tree_per_problem(undisturbed: dict[str, Tree]) -> None:
    assert len(undisturbed) == 12
    assert any(tree.solved for tree in undisturbed.values())
    for tree in undisturbed.values():
        check_invariants(tree)


@pytest.mark.parametrize("attempt", range(3))
def test_a_search_killed_at_random_points_ends_in_the_same_trees(
    tmp_path: Path, undisturbed: dict[str, Tree], attempt: int
) -> None:
    store = tmp_path / "store"
    chance = random.Random(attempt)
    kept = 0
    for _ in range(2):
        process = run_search(store, pause_s=0.03)
        goal = kept + chance.randint(1, 4)
        until = time.monotonic() + 60
        while process.poll() is None and kept < goal and time.monotonic() < until:
            time.sleep(0.02)
            kept = len(Store(store).keys(1)) if (store / "store.json").exists() else 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = trees_of(store)
        assert len(stored) >= kept, "a finished tree was lost"
        assert all(undisturbed[name] == tree for name, tree in stored.items())
        kept = len(stored)
    assert run_search(store).wait() == 0
    assert trees_of(store) == undisturbed
    assert Store(store).validate() == []


def test_a_search_that_is_done_starts_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "open_engines", lambda *_: pytest.fail("an engine was started"))
    store = Store.create(tmp_path / "store")
    with store.writer(round=1) as writer:
        writer.append(Tree(problem_id="p", question="q"))
    faults = asyncio.run(
        campaign.search_into_store(
            [Problem(id="p", question="q", answer="1")], model=tmp_path, store=store, round_index=1, label="x",
            search=SearchConfig(), sandbox=SandboxConfig(), grading=GraderConfig(), engine=EngineConfig(),
            prompt_format="bare", seed=0,
        )
    )  # fmt: skip
    assert faults == []
    assert [record.outcome for record in store.records()] == [Outcome.UNSOLVED]


def test_fault_18_a_search_whose_model_never_writes_a_step_stops_with_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ChainWorld()

    @asynccontextmanager
    async def engines(*_: object) -> AsyncIterator[tuple[Engines, TextJudge]]:
        policy = ScriptedPolicy(lambda prefix, chance: "The answer is 4, I think.")
        yield Engines(policy=policy, sandbox=InProcessSandbox()), TextJudge("4")

    monkeypatch.setattr(campaign, "open_engines", engines)
    with pytest.raises(
        ConfigError, match=r"16 trees without one executed step: .* 'The answer is 4, I think\.'"
    ):
        asyncio.run(
            campaign.search_into_store(
                world.problems(40), model=tmp_path, store=Store.create(tmp_path / "store"), round_index=1, label="x",
                search=SearchConfig(num_rollouts=2), sandbox=SandboxConfig(), grading=GraderConfig(),
                engine=EngineConfig(), prompt_format="bare", seed=0,
            )
        )  # fmt: skip
