"""Sealing a zygote: every isolation layer, applied once and inherited by each fork, so that a step pays nothing.

Each layer is attempted on its own. What could not be had is recorded with its reason and judged later, by probes
that run as a step (`probes`), not by these return codes alone.
"""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from rstar.sandbox import jail, kernel, landlock, seccomp

FAR_AWAY_UID = 64_500
"""First user id of the range that step code runs as when the server is root; one per shard of a machine."""


@dataclass(slots=True)
class Seal:
    """What was applied: layer -> "" or the reason why not. `listener` is the fork gate's descriptor."""

    layers: dict[str, str] = field(default_factory=dict)
    listener: int | None = None


def seal(*, readable: Collection[str], memory_mb: int, uid: int, without: Collection[str]) -> Seal:
    """Apply every layer that is not in `without` to this process, in the one order that works.

    `readable` are the paths step code may read (Python and its libraries); `memory_mb` MiB are allowed beyond the
    present size; `uid` is taken if this process is root.
    """
    done = Seal()

    def attempt(layer: str, apply: Callable[[], object]) -> bool:
        if layer in without:
            done.layers[layer] = "switched off"
            return False
        try:
            apply()
        except OSError as error:
            done.layers[layer] = error.strerror or str(error)
            return False
        done.layers[layer] = ""
        return True

    is_root = os.geteuid() == 0
    if not is_root and not {"mount", "network", "ipc", "uts"} <= set(without):
        attempt("user", _enter_user_namespace)
    attempt("network", lambda: kernel.unshare(kernel.CLONE_NEWNET))
    attempt("ipc", lambda: kernel.unshare(kernel.CLONE_NEWIPC))
    attempt("uts", _enter_uts_namespace)
    attempt("mount", lambda: _enter_jail(readable))
    if is_root:
        has_jail = done.layers["mount"] == ""
        attempt("uid", lambda: _become(uid, () if has_jail else readable))
    else:
        attempt("uid", kernel.drop_capabilities)
    attempt("rlimits", lambda: _limit(memory_mb))
    _point_standard_streams_at_nothing()
    if kernel.IS_LINUX:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.die_with_parent()  # again: changing the user id has undone it
    attempt("landlock", lambda: landlock.restrict((*jail.SYSTEM_LIBRARIES, *readable), jail.DEVICES))
    _filter_system_calls(done, without)
    return done


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    map_own_ids(uid, gid)


def map_own_ids(uid: int, gid: int) -> None:
    """In a new user namespace: keep the ids this process had."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _enter_uts_namespace() -> None:
    kernel.unshare(kernel.CLONE_NEWUTS)
    socket.sethostname("sandbox")


def _enter_jail(readable: Collection[str]) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    jail.enter(readable)


def _become(uid: int, needed: Collection[str]) -> None:
    for path in needed:
        if not _others_may_enter(path):
            kernel.drop_capabilities()
            raise OSError("Python or a library lies in a folder that only root may enter")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _others_may_enter(path: str) -> bool:
    while path not in ("", "/"):
        if os.path.isdir(path) and not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def _limit(memory_mb: int) -> None:
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else open(os.devnull) as statm:
        fields = statm.read().split()
    size = int(fields[0]) * resource.getpagesize() if fields else 0
    limits = {
        resource.RLIMIT_AS: size + memory_mb * 2**20,
        resource.RLIMIT_STACK: 8 * 2**20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _point_standard_streams_at_nothing() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    if nothing > 2:
        os.close(nothing)
    os.closerange(4, 1024)


def _filter_system_calls(done: Seal, without: Collection[str]) -> None:
    if "seccomp" in without or not kernel.IS_FULL_PATH:
        reason = "switched off" if "seccomp" in without else "the filter is written for x86_64 Linux"
        done.layers["seccomp"] = done.layers["gate"] = reason
        return
    gated = "gate" not in without
    done.layers["gate"] = "" if gated else "switched off"
    try:
        done.listener = seccomp.install(gated=gated)
    except OSError as error:
        if not gated:
            done.layers["seccomp"] = error.strerror or str(error)
            return
        done.layers["gate"] = error.strerror or str(error)
        try:
            seccomp.install(gated=False)
        except OSError as second:
            done.layers["seccomp"] = second.strerror or str(second)
            return
    done.layers["seccomp"] = ""
