"""The connection to a Ray cluster, and the machines that it has."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rstar.errors import BackendError, ConfigError

LOCAL = "local"
"""The address that starts Ray on this machine."""
AUTO = "auto"
"""The address of the cluster that this machine belongs to."""
REACHED_WITHIN_S = 5.0
LOCAL_STORE_BYTES = 256 << 20
"""Ray's object store where we start it: it holds the trees between worker and store only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """A machine of the cluster, as Ray sees it."""

    node_id: str
    host: str
    """Its address inside the cluster."""
    hostname: str
    num_cpus: int
    num_gpus: int


def import_ray() -> Any:
    """Ray. Raises ConfigError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError(
            'a cluster needs Ray, which is not installed here; `pip install "rstar[ray]"`, or make with RAY=..., does it'
        ) from None
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address` while in the context: HOST:PORT of its head, `auto` or `local`. A
    connection that is there already is used and left alone.

    Raises ConfigError, one line, for a cluster that is not there, is not ours to use, or has other versions.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _check_reachable(address)
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        options |= {
            "include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES, "_node_ip_address": "127.0.0.1"
        }  # fmt: skip
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise _explained(address, error) from None
    # Ray prints what happens to workers on this process's stdout, which belongs to results; the fleet says it in the log.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield ray
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


def nodes_of(ray: Any) -> list[ClusterNode]:
    """The machines that are alive."""
    return [
        ClusterNode(
            node_id=node["NodeID"],
            host=node["NodeManagerAddress"],
            hostname=node["NodeManagerHostname"],
            num_cpus=int(node["Resources"].get("CPU", 0)),
            num_gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def on_node(ray: Any, node: ClusterNode) -> Any:
    """What makes Ray start an actor on this machine and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def own_error(error: Exception) -> Exception:
    """What was raised at a worker, without what Ray wraps it in."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def last_line(error: BaseException) -> str:
    """The line of an error that says what was wrong, without Ray's general advice."""
    text = str(error).partition(" Some common causes include")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes, and then end the process."""
    if address in (AUTO, LOCAL):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"{address!r} is no address of a Ray cluster; give HOST:PORT of its head (`ray start --head` prints it), "
            "auto, or local"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray head answers at {address}: {error.strerror or error}; `ray status --address {address}` on the head "
            "says whether it runs, and a firewall may be in between"
        ) from None


def _explained(address: str, error: Exception) -> Exception:
    """The error for a user, of what Ray said when it could not connect."""
    text = str(error)
    if "Version mismatch" in text:
        words = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        there, here = ", ".join(words[:2]), ", ".join(words[2:4])
        return ConfigError(
            f"the cluster at {address} runs {there}; here is {here}: all machines need the same versions of both"
        )
    if "token" in text.lower() or "unauthenticated" in text.lower():
        return ConfigError(
            f"the cluster at {address} asks for a token that this process does not have; `export RAY_AUTH_MODE=token`, with "
            "the head's ~/.ray/auth_token on every machine, or the same RAY_AUTH_TOKEN"
        )
    if address == AUTO:
        return ConfigError(
            "no Ray runs on this machine; `ray start --head` starts it, `ray start --address HOST:PORT` joins a cluster, "
            "RAY=local does without"
        )
    if address == LOCAL:
        return BackendError(f"Ray does not start on this machine: {last_line(error)}")
    return ConfigError(
        f"there is no way into the Ray cluster at {address} from here: {last_line(error)}; this machine must be one of its "
        f"nodes: `ray start --address={address}`"
    )
