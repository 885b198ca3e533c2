"""One Ray for all tests here: two nodes on this machine, each with one worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rstar.campaign import UnsolvedPass
from rstar.cluster import ClusterSearcher
from rstar.store import Store
from rstar.tree import Tree
from tests.rstar.cluster.nodes import two_nodes
from tests.rstar.cluster.scripted import WORLD, Script, search_into, trees_of

PASSES = (UnsolvedPass(num_rollouts=6), UnsolvedPass(num_rollouts=6, tree_index=1))
PROBLEMS = WORLD.problems(24)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes() as address:
        yield address


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """The trees of one process."""
    folder = tmp_path_factory.mktemp("alone")
    store = Store.create(folder / "store")
    assert search_into(store, Script(folder=folder), problems=PROBLEMS, unsolved=PASSES) == []
    return trees_of(store)


def test_two_workers_of_which_one_is_killed_find_the_trees_of_one_process(
    tmp_path: Path, address: str, alone: dict[str, Tree]
) -> None:
    store = Store.create(tmp_path / "store")
    script = Script(folder=tmp_path, latency_s=0.01, kill_at=40)
    progress = tmp_path / "progress.json"
    faults = search_into(
        store, script, partial(ClusterSearcher.open, address), problems=PROBLEMS, unsolved=PASSES,
        progress_file=progress,
    )  # fmt: skip
    assert faults == []
    assert (tmp_path / "killed").exists()
    assert trees_of(store) == alone
    assert store.validate() == []
    assert max(Counter(record.version for record in store.records(1))) >= 1, "stored trees were searched on"
    workers = json.loads(progress.read_text())["workers"]
    assert sum(one["alive"] for one in workers.values()) == 2, "the dead one was replaced"
