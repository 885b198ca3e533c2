"""One Ray for all tests here: two nodes on this machine, each with one worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rstar.campaign import UnsolvedPass, search_into_store
from rstar.cluster import ClusterSearcher, training_slots
from rstar.config import Guidance
from rstar.engines import EngineConfig
from rstar.errors import ConfigError
from rstar.grading import GraderConfig
from rstar.sandbox import SandboxConfig
from rstar.searcher import LocalSearcher, OpenSearcher
from rstar.store import Store
from rstar.tree import Tree
from tests.rstar.cluster.nodes import nodes
from tests.rstar.cluster.scripted import SEARCH, WORLD, Script, search_into, trees_of


def on(address: str) -> OpenSearcher:
    return partial(ClusterSearcher.open, address)


PASSES = (UnsolvedPass(num_rollouts=6), UnsolvedPass(num_rollouts=6, tree_index=1))
PROBLEMS = WORLD.problems(24)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with nodes(2) as address:
        yield address


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """The trees of one process."""
    folder = tmp_path_factory.mktemp("alone")
    store = Store.create(folder / "store")
    assert search_into(store, Script(folder=folder), problems=PROBLEMS, unsolved=PASSES) == []
    return trees_of(store)


def test_two_workers_of_which_one_is_killed_find_the_trees_of_one_process(
    tmp_path: Path,
    address: str,
    alone: dict[str, Tree],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store.create(tmp_path / "store")
    script = Script(folder=tmp_path, latency_s=0.01, kill_at=40)
    assert search_into(store, script, on(address), problems=PROBLEMS, unsolved=PASSES) == []
    assert (tmp_path / "killed").exists()
    assert trees_of(store) == alone
    assert store.validate() == []
    assert max(Counter(record.version for record in store.records(1))) >= 1, "stored trees were searched on"
    assert "is lost, its" in caplog.text
    assert "Worker exit" not in "".join(capfd.readouterr()), "Ray says nothing on our streams"


def test_progress_sums_what_the_workers_do(tmp_path: Path, address: str) -> None:
    store = Store.create(tmp_path / "store")
    script, progress = Script(folder=tmp_path, latency_s=0.02), tmp_path / "progress.json"
    search_into(store, script, on(address), problems=PROBLEMS, progress_file=progress)
    numbers = json.loads(progress.read_text())
    assert [one["alive"] for one in numbers["workers"].values()] == [True, True]
    assert sum(one["trees"] for one in numbers["workers"].values()) == numbers["trees_done"] == len(PROBLEMS)
    trees = trees_of(store).values()
    for name in ("tokens", "executions"):
        total = sum(getattr(tree, f"num_{name}") for tree in trees)
        assert sum(one[name] for one in numbers["workers"].values()) == numbers[name] >= total
    assert min(one["trees"] for one in numbers["workers"].values()) >= len(PROBLEMS) / 4, (
        "both had their share"
    )


@pytest.mark.slow
def test_a_preference_model_is_opened_where_the_search_runs(tmp_path: Path, address: str) -> None:
    guided = replace(SEARCH, guidance=Guidance.PPM)
    found = []
    for name, searcher in (("here", LocalSearcher.open), ("cluster", on(address))):
        store = Store.create(tmp_path / name)
        search_into(store, Script(folder=tmp_path), searcher, problems=PROBLEMS[:6], search=guided)
        found.append(trees_of(store))
    assert found[0] == found[1]
    assert any(node.initial_value is not None for tree in found[0].values() for node in tree.nodes)


@pytest.mark.slow
def test_a_worker_whose_engine_is_broken_is_replaced_and_no_tree_is_parked(
    tmp_path: Path, address: str, alone: dict[str, Tree]
) -> None:
    store = Store.create(tmp_path / "store")
    script = Script(folder=tmp_path, latency_s=0.01, fail_from=20)
    assert search_into(store, script, on(address), problems=PROBLEMS, unsolved=PASSES) == []
    assert (tmp_path / "failing").exists()
    assert trees_of(store) == alone


@pytest.mark.slow
def test_a_tree_that_kills_every_worker_is_parked_and_the_others_are_found(
    tmp_path: Path, address: str
) -> None:
    store = Store.create(tmp_path / "store")
    script = Script(folder=tmp_path, latency_s=0.01, deadly="chain-3#0")
    faults = search_into(store, script, on(address), problems=PROBLEMS[:8])
    assert len(faults) == 1
    assert faults[0].startswith("chain-3#0: 4 workers died or failed while searching it")
    assert len(trees_of(store)) == 7


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_on_the_cluster_is_the_round_of_the_recipe(tmp_path: Path, address: str) -> None:
    """Where it was searched makes nothing stale, and the search had both workers."""
    settings = (
        "problems.train.curriculum={easy: 8, medium: 4}", "problems.evaluation.curriculum={easy: 4}",
        "search.num_rollouts=4", "search.num_candidates=4", "engine.num_replicas=0", "sft.epochs=1",
        "evaluation.problems={easy: 2}", "evaluation.search.num_rollouts=1", "ppm.global_batch_size=16",
    )  # fmt: skip
    rstar = [sys.executable, "-m", "rounds.cli", "round"]
    common = ["--run", str(tmp_path), "--json", *(word for one in settings for word in ("--set", one))]
    done = subprocess.run([*rstar, "1", *common, "--ray", address], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    workers = json.loads((tmp_path / "round1" / "search" / "progress.json").read_text())["workers"]
    assert [one["trees"] > 0 for one in workers.values()] == [True, True]
    shown = subprocess.run([*rstar, "status", *common, "--round", "1"], capture_output=True, text=True)
    assert {one["progress"] for one in json.loads(shown.stdout)} == {"complete"}


def test_a_missing_model_folder_is_said_with_the_machine_that_lacks_it(tmp_path: Path, address: str) -> None:
    with pytest.raises(
        ConfigError, match=r"worker on .*: there is no /nowhere/model on this machine; .* share"
    ):
        asyncio.run(
            search_into_store(
                PROBLEMS, model=Path("/nowhere/model"), store=Store.create(tmp_path), round_index=1, label="x",
                search=SEARCH, sandbox=SandboxConfig(), grading=GraderConfig(), engine=EngineConfig(),
                prompt_format="bare", seed=0, open_searcher=on(address),
            )
        )  # fmt: skip


def test_training_slots_are_the_cpus_where_there_are_no_gpus(address: str) -> None:
    assert list(training_slots(address).values()) == [2]


def test_a_command_on_a_node_gives_its_own_output_and_exit_code(address: str) -> None:
    (host,) = training_slots(address)
    shell = [sys.executable, "-m", "rstar.cluster.shell", address, host]
    ran = subprocess.run([*shell, "cat; exit 3"], input="passed on", capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("passed on", "", 3)
