"""A search into a store, pass after pass, killed at any request and run again, ends in the trees of one that was not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rstar import campaign
from rstar.backends.scripted import ScriptedPolicy, ScriptedValue
from rstar.campaign import UnsolvedPass
from rstar.config import Guidance, SearchConfig
from rstar.engines import EngineConfig
from rstar.errors import BackendError, ConfigError
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig, ReferenceJudge
from rstar.problems import Problem
from rstar.protocols import Candidate, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.search import TreeSearch
from rstar.seeds import derive
from rstar.store import Outcome, Store
from rstar.tree import Tree, check_invariants
from tests.rstar.campaign_run import PASSES, PROBLEMS, SEARCH, SEED, WORLD, CountingPolicy, search_into
from tests.rstar.fakes import InProcessSandbox

GUIDED = SearchConfig(num_rollouts=2, num_candidates=3, guidance=Guidance.PPM)


def trees_of(store: Path) -> dict[str, Tree]:
    return {tree.name: tree for tree in Store(store).trees(1)}


def versions_of(store: Path) -> dict[tuple[str, int], int]:
    return {(r.problem_id, r.tree_index): r.version for r in Store(store).records(1)}


def value() -> ScriptedValue:
    return ScriptedValue(lambda text: (len(text) % 7 - 3) / 3)


@pytest.fixture(scope="module")
def policy() -> CountingPolicy:
    """The policy of the undisturbed search, which has counted its requests."""
    return CountingPolicy()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, policy: CountingPolicy) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    assert search_into(Store.create(store), policy, unsolved=PASSES) == []
    return store


async def naive_passes() -> dict[str, Tree]:
    """Problem after problem, one tree after the other, in memory."""
    trees: dict[str, Tree] = {}
    with Grader() as grader:
        for problem in PROBLEMS:
            own: list[Tree] = []
            for one in (UnsolvedPass(num_rollouts=SEARCH.num_rollouts), *PASSES):
                if any(tree.solved for tree in own):
                    break
                if one.tree_index == len(own):
                    seed = derive(SEED, "tree", one.tree_index) if one.tree_index else SEED
                    own.append(
                        Tree(problem_id=problem.id, question=problem.question, seed=seed, tree_index=len(own))
                    )
                tree = own[one.tree_index]
                engines = Engines(policy=WORLD.policy(), sandbox=InProcessSandbox())
                search = TreeSearch(tree, engines, ReferenceJudge(grader, problem.answer), SEARCH)
                await search.run(one.num_rollouts - tree.num_rollouts)
            trees |= {tree.name: tree for tree in own}
    return trees


def test_passes_end_in_the_trees_of_a_naive_loop_over_problems(undisturbed: Path) -> None:
    trees = trees_of(undisturbed)
    assert trees == asyncio.run(naive_passes())
    for tree in trees.values():
        check_invariants(tree)
    in_pass = {
        (tree.tree_index, min(g for g in (2, 4, 7) if tree.num_rollouts <= g))
        for tree in trees.values()
        if tree.solved
    }
    assert in_pass >= {(0, 2), (0, 4), (0, 7), (1, 7)}, "each pass solves something"
    assert any(tree.exhausted and not tree.solved for tree in trees.values())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.57, 0.65, 0.75, 0.95])
def test_a_search_killed_in_any_pass_ends_in_the_same_trees(
    tmp_path: Path, undisturbed: Path, policy: CountingPolicy, share: float
) -> None:
    store = tmp_path / "store"
    kill_at = round(share * policy.num_requests)
    command = [sys.executable, "-m", "tests.rstar.campaign_run", str(store), str(kill_at)]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    kept = trees_of(store)
    assert kept != trees_of(undisturbed)
    again = CountingPolicy()
    assert search_into(Store(store), again, unsolved=PASSES) == []
    assert trees_of(store) == trees_of(undisturbed)
    assert versions_of(store) == versions_of(undisturbed)
    assert Store(store).validate() == []
    assert (again.num_requests < policy.num_requests) == bool(kept), "what was finished is not searched again"


def test_a_stored_tree_changes_version_only_when_a_pass_adds_to_it(undisturbed: Path) -> None:
    trees, versions = trees_of(undisturbed), versions_of(undisturbed)
    for tree in trees.values():
        in_first_pass = tree.num_rollouts <= SEARCH.num_rollouts
        later = 0 if in_first_pass or tree.tree_index else 1 + (tree.num_rollouts > PASSES[0].num_rollouts)
        assert versions[tree.problem_id, tree.tree_index] == later


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


def test_fault_20_equal_models_give_equal_trees_whatever_runs_beside_them(tmp_path: Path) -> None:
    found = []
    for in_flight, problems in ((1, PROBLEMS), (50, PROBLEMS[::-1])):
        store = Store.create(tmp_path / str(in_flight))
        search_into(
            store, WORLD.policy(), problems=problems, search=GUIDED, max_trees_in_flight=in_flight,
            open_value=value, unsolved=PASSES,
        )  # fmt: skip
        found.append(trees_of(store.folder))
    assert found[0] == found[1]
    assert any(node.initial_value is not None for tree in found[0].values() for node in tree.nodes)


def test_some_problems_get_fewer_rollouts_in_the_first_pass_and_the_others_the_configs(
    tmp_path: Path,
) -> None:
    store = Store.create(tmp_path / "store")
    fewer = {problem.id: 1 for problem in PROBLEMS[:6]}
    search_into(store, WORLD.policy(), search=GUIDED, open_value=value, fewer_rollouts=fewer)
    for tree in trees_of(store.folder).values():
        goal = fewer.get(tree.problem_id, GUIDED.num_rollouts)
        assert tree.num_rollouts == goal or tree.exhausted
        assert tree.num_rollouts <= goal


def test_inference_searches_several_trees_a_problem_and_verifies_nothing(tmp_path: Path) -> None:
    class Closing(ScriptedValue):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    store = Store.create(tmp_path / "store")
    model = Closing(lambda text: (len(text) % 7 - 3) / 3)
    options: dict[str, Any] = {"search": GUIDED, "tree_indices": range(3), "reference": False}
    assert search_into(store, WORLD.policy(), open_value=lambda: model, **options) == []
    assert model.closed == 1
    trees = trees_of(store.folder)
    assert sorted(trees) == sorted(f"{problem.id}#{index}" for problem in PROBLEMS for index in range(3))
    assert {(tree.tree_index, tree.seed) for tree in trees.values()} == {
        (0, SEED), (1, derive(SEED, "tree", 1)), (2, derive(SEED, "tree", 2))
    }  # fmt: skip
    assert {node.verified for tree in trees.values() for node in tree.nodes} == {None}
    assert Outcome.SOLVED not in {record.outcome for record in store.records()}
    assert len({tuple(node.text for node in trees[f"chain-0#{i}"].nodes) for i in range(3)}) == 3
    assert search_into(store, WORLD.policy(), open_value=lambda: model, **options) == []
    assert model.closed == 1, "where nothing is left to do, it is not opened"


class Failing(ScriptedPolicy):
    """Out of order for one problem's tree as long as `failing`."""

    failing = True

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        if self.failing and request.group == "chain-3#0":
            raise BackendError("out of memory")
        return await super().propose(request)


def test_fault_14_a_parked_tree_ends_the_search_before_its_next_pass_and_a_rerun_makes_up_for_it(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstar.evaluation.RETRY_DELAYS_S", (0.0,))
    store = Store.create(tmp_path / "store")
    policy = Failing(WORLD.respond)
    assert search_into(store, policy, unsolved=PASSES) == ["chain-3#0: BackendError: out of memory"]
    assert {record.num_rollouts for record in store.records()} <= {1, 2}
    policy.failing = False
    assert search_into(store, policy, unsolved=PASSES) == []
    assert trees_of(store.folder) == trees_of(undisturbed)


def test_fault_18_a_search_whose_model_never_writes_a_step_stops_with_a_clear_message(tmp_path: Path) -> None:
    policy = ScriptedPolicy(lambda prefix, chance: "The answer is 4, I think.")
    with pytest.raises(
        ConfigError, match=r"16 trees without one executed step: .* 'The answer is 4, I think\.'"
    ):
        search_into(Store.create(tmp_path / "store"), policy, problems=WORLD.problems(40))
