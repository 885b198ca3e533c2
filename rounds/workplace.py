"""Where the stages of a run do their work: this machine, or a cluster. Decides no result, so it is no part of a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from rstar.errors import ConfigError
from rstar.searcher import LocalSearcher, OpenSearcher
from rstar.training.config import TrainingConfig
from rstar.training.hosts import Hosts

LOCAL = "local"
"""Address of a cluster that is started here, for the time of a search."""


def _recipes_own(config: TrainingConfig) -> Hosts | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What stages are given beside recipe and folders."""

    open_searcher: OpenSearcher = LocalSearcher.open
    training_hosts: Callable[[TrainingConfig], Hosts | None] = _recipes_own
    """The machines of a training; None: those that its settings name, or this one."""


HERE = Workplace()
"""This machine."""


def on_ray(address: str) -> Workplace:
    """The Ray cluster at an address: HOST:PORT of its head, `auto`, or `local` to start one here. Nothing is connected yet.

    Trainings of several processes, or under DeepSpeed, run on its machines too, unless they have a host file.
    """
    from rstar.cluster import ClusterSearcher

    hosts = _recipes_own if address == LOCAL else partial(cluster_hosts, address)
    return Workplace(open_searcher=partial(ClusterSearcher.open, address), training_hosts=hosts)


def cluster_hosts(address: str, config: TrainingConfig) -> Hosts | None:
    """The cluster's machines for a training of `num_processes` (null: all the processes there is room for); None for one that is no
    matter of several processes, or has machines of its own. Raises ConfigError if the cluster is too small."""
    if config.host_file is not None or (config.num_processes is None and config.deepspeed is None):
        return None
    from rstar.cluster import training_slots

    slots = training_slots(address)
    shell = (sys.executable, "-m", "rstar.cluster.shell", address)
    return Hosts(slots=fewest(slots, config.num_processes), remote_shell=shell)


def fewest(slots: Mapping[str, int], num_processes: int | None) -> dict[str, int]:
    """As few machines as hold so many processes, the largest first: what they exchange stays within them as far as it can.
    None: all slots. Raises ConfigError if there are too few."""
    if num_processes is None:
        return dict(slots)
    left, chosen = num_processes, {}
    for host, count in sorted(slots.items(), key=lambda item: -item[1]):
        if left:
            chosen[host] = min(left, count)
            left -= chosen[host]
    if left:
        raise ConfigError(
            f"num_processes is {num_processes}; the cluster has room for {sum(slots.values())} training processes"
        )
    return chosen
