"""Ray nodes for tests: several on this machine, small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}
STARTS = 3
"""Ray gives a node 30 s to start, which a busy machine may exceed."""


@contextmanager
def nodes(count: int, **more: int) -> Iterator[str]:
    """So many nodes, each with room for one worker unless `more` says otherwise; the head's address."""
    cluster = _started(count, {**NODE, **more})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def _started(count: int, node: dict[str, int]) -> Any:
    from ray.cluster_utils import Cluster

    for attempt in range(1, STARTS + 1):
        cluster = Cluster()
        try:
            for _ in range(count):
                cluster.add_node(**node)
        except Exception:
            cluster.shutdown()
            if attempt == STARTS:
                raise
        else:
            return cluster
    raise AssertionError("the last attempt returns or raises")
