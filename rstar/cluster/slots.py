"""What a cluster offers to launchers of training: its machines, and how many processes each takes."""

from __future__ import annotations

from rstar.cluster.connection import connected, nodes_of


def training_slots(address: str) -> dict[str, int]:
    """Host to number of training processes: its GPUs, or its CPUs where no machine of the cluster has a GPU.

    Hosts without any are left out. `rstar.cluster.shell` runs commands on them under these names. Raises ConfigError for a
    cluster that cannot be reached.
    """
    with connected(address) as ray:
        nodes = nodes_of(ray)
    has_gpus = any(node.num_gpus for node in nodes)
    slots: dict[str, int] = {}
    for node in nodes:
        count = node.num_gpus if has_gpus else node.num_cpus
        if count:
            slots[node.host] = slots.get(node.host, 0) + count
    return slots
