"""What a user reads where there is no way into a cluster."""

from __future__ import annotations

import re
import socket
import sys

import pytest

from rstar.cluster.connection import connected, import_ray
from rstar.errors import ConfigError


def refused(address: str) -> str:
    """What a user reads."""
    with pytest.raises(ConfigError) as found, connected(address):
        pass
    message = str(found.value)
    assert "\n" not in message
    return message


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'needs Ray, which is not installed here; `pip install "rstar[ray]"`' in refused("auto")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379"])
def test_what_is_no_address_is_refused_with_what_would_be(address: str) -> None:
    assert refused(address).startswith(
        f"{address!r} is no address of a Ray cluster; give HOST:PORT of its head"
    )


def test_a_head_that_does_not_answer_is_said_at_once() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(address).startswith(f"no Ray head answers at {address}: Connection refused; ")


def test_no_cluster_on_this_machine_is_said_with_three_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda *_: None)
    assert re.match(r"no Ray runs on this machine; `ray start --head` .* RAY=local", refused("auto"))


def test_other_versions_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = import_ray()
    from ray._private.utils import check_version_info

    def mismatch(**_: object) -> None:
        check_version_info({"ray_version": "2.9.0", "python_version": "3.10.1"}, "here")

    monkeypatch.setattr(ray, "init", mismatch)
    assert re.fullmatch(
        r"the cluster at local runs Ray: 2\.9\.0, Python: 3\.10\.1; here is Ray: 2\.\S+, Python: 3\.\S+: all machines need "
        "the same versions of both",
        refused("local"),
    )
