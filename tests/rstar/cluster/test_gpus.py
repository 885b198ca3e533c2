"""Nodes that say they have GPUs: how many workers they get, and who is refused. No GPU is used."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from rstar.backends.vllm.config import VLLMConfig
from rstar.cluster import ClusterSearcher, training_slots
from rstar.engines import Backend, EngineConfig
from rstar.errors import ConfigError
from rstar.store import Store
from tests.rstar.cluster.nodes import nodes
from tests.rstar.cluster.scripted import WORLD, Script, search_into, trees_of

pytestmark = pytest.mark.slow


def test_a_node_has_a_worker_per_group_of_gpus_and_too_few_gpus_are_refused(tmp_path: Path) -> None:
    problems = WORLD.problems(12)
    store, progress = Store.create(tmp_path / "store"), tmp_path / "progress.json"
    script = Script(folder=tmp_path, latency_s=0.05)
    with nodes(2, num_cpus=2, num_gpus=2) as address:
        assert list(training_slots(address).values()) == [4], "its GPUs; both nodes have one address here"
        search_into(
            store, script, partial(ClusterSearcher.open, address), problems=problems, progress_file=progress
        )
        assert len(json.loads(progress.read_text())["workers"]) == 4
        large = EngineConfig(backend=Backend.VLLM, vllm=VLLMConfig(tensor_parallel=4))
        with pytest.raises(
            ConfigError, match=r"no node .* has the 4 GPUs that one set of engines takes; the largest has 2"
        ):
            search_into(
                Store.create(tmp_path / "other"),
                script,
                partial(ClusterSearcher.open, address),
                problems=problems,
                engine=large,
            )
    assert Counter(tree.problem_id for tree in trees_of(store).values()) == Counter(p.id for p in problems)
