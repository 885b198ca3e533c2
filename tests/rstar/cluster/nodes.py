"""Ray nodes for tests: several on this machine, small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}


@contextmanager
def nodes(count: int, **more: int) -> Iterator[str]:
    """So many nodes, each with room for one worker unless `more` says otherwise; the head's address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, **more})
    try:
        for _ in range(count - 1):
            cluster.add_node(**{**NODE, **more})
        yield cluster.address
    finally:
        cluster.shutdown()
