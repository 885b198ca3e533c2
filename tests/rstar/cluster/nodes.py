"""Ray nodes for tests: several on this machine, small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}


@contextmanager
def two_nodes() -> Iterator[str]:
    """A head and one more node, with room for one worker each; the head's address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        yield cluster.address
    finally:
        cluster.shutdown()
