"""Where trainings run when a cluster is at hand."""

from __future__ import annotations

import sys

import pytest

from policy.config import SFTConfig
from rounds import workplace
from rounds.workplace import HERE, cluster_hosts, fewest, on_ray
from rstar.errors import ConfigError


def test_here_a_training_has_the_machines_that_its_settings_name() -> None:
    assert HERE.training_hosts(SFTConfig(num_processes=4, global_batch_size=128)) is None


def test_a_training_of_one_process_or_with_a_host_file_is_no_business_of_the_cluster() -> None:
    assert cluster_hosts("10.0.0.1:6379", SFTConfig()) is None
    assert cluster_hosts("10.0.0.1:6379", SFTConfig(num_processes=2, host_file="hosts")) is None


def test_several_processes_go_to_the_clusters_machines_through_its_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import rstar.cluster

    monkeypatch.setattr(rstar.cluster, "training_slots", lambda address: {"a": 2, "b": 8})
    hosts = on_ray("10.0.0.1:6379").training_hosts(SFTConfig(num_processes=9, global_batch_size=144))
    assert hosts is not None
    assert dict(hosts.slots) == {"b": 8, "a": 1}
    assert hosts.remote_shell == (sys.executable, "-m", "rstar.cluster.shell", "10.0.0.1:6379")
    everything = on_ray("auto").training_hosts(SFTConfig(deepspeed="zero3"))
    assert everything is not None
    assert everything.num_processes == 10


def test_a_cluster_started_for_a_search_trains_on_this_machine() -> None:
    assert on_ray(workplace.LOCAL).training_hosts(SFTConfig(num_processes=2)) is None


def test_too_many_processes_are_refused_with_what_there_is() -> None:
    assert fewest({"a": 4}, 4) == {"a": 4}
    with pytest.raises(
        ConfigError, match="num_processes is 5; the cluster has room for 4 training processes"
    ):
        fewest({"a": 4}, 5)
