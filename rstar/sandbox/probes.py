"""Which isolation layers hold on this machine, found by trying: a program run as a step after sealing.

Return codes are not enough: a user-id change with Python under a private folder "succeeds" and breaks every later
import, and only an import shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rstar.sandbox.report import IsolationReport, Layer

PROBE = r"""
import ctypes, json, mmap, os, resource, socket
def fails(action, *kinds):
    try:
        action()
    except kinds or (OSError,):
        return True
    return False
libc = ctypes.CDLL(None, use_errno=True)
def fork():
    pid = libc.fork()
    if pid == 0:
        libc._exit(0)
    if pid < 0:
        raise OSError("no fork")
def forge():
    tid = ctypes.c_long()
    pid = libc.syscall(ctypes.c_long(56), ctypes.c_ulong(%(fork_flags)d), 0, 0, ctypes.byref(tid), 0)
    if pid == 0:
        libc._exit(0)
    if pid < 0:
        raise OSError("no fork")
def write(folder):
    path = folder + "/rstar-sandbox-probe"
    open(path, "w").close()
    os.unlink(path)
def lazy_import():
    import colorsys, sqlite3, wave
size = int(%(memory_mb)d) * 2**20
print(json.dumps({
    "reads": not fails(lambda: open("/etc/passwd").close()),
    "sees_proc": os.path.exists("/proc/1") or os.path.exists("/proc/self"),
    "sees_host": any(os.path.exists(path) for path in ("/home", "/root/.bashrc", "/var", "/usr/bin")),
    "writes": not all(fails(lambda: write(folder)) for folder in ("/tmp", "/dev/shm", ".")),
    "sockets": not fails(lambda: socket.socket().close()),
    "forks": not fails(fork),
    "forges_forks": %(is_full)d and not fails(forge),
    "signals": not fails(lambda: os.kill(os.getpid(), 0)),
    "sees_parent": os.getppid() != 0,
    "host_name": os.uname().nodename,
    "root": os.geteuid() == 0 or not fails(lambda: os.setuid(0)),
    "takes_memory": not fails(lambda: mmap.mmap(-1, 2 * size).close()),
    "no_new_privileges": libc.prctl(39, 0, 0, 0, 0) == 1,
    "dumpable": libc.prctl(3, 0, 0, 0, 0) != 0,
    "imports": not fails(lazy_import, ImportError, OSError),
}))
"""
"""Prints one JSON object. Where a layer is missing, nothing it does leaves a trace."""


def judge(layers: Mapping[str, str], findings: Mapping[str, bool | str]) -> IsolationReport:
    """Put the reasons that sealing gave and what the probe found into one table."""

    def layer(name: str, title: str, consequence: str, *found: bool, without: str = "") -> Layer:
        reason = layers.get(name, without)
        return Layer(title, not reason and not any(found), consequence, reason)

    reads_open = bool(findings["reads"])
    return IsolationReport(
        (
            layer(
                "seccomp",
                "system-call filter (seccomp)",
                "step code can call the whole kernel: sockets, processes, files",
                bool(findings["sockets"] or findings["forks"] or findings["signals"] or findings["writes"]),
            ),
            layer(
                "gate",
                "fork gate (seccomp notification)",
                "step code can fork; only the process limit bounds it",
                bool(findings["forges_forks"]),
            ),
            layer(
                "landlock",
                "file access rules (Landlock)",
                "step code can READ world-readable files"
                if reads_open
                else "the mount jail alone hides files",
            ),
            layer(
                "mount",
                "read-only file system of its own (mount namespace)",
                "step code can READ world-readable files"
                if reads_open
                else "file names outside can be seen, not read",
                bool(findings["sees_proc"] or findings["sees_host"]),
            ),
            layer(
                "pid",
                "process namespace",
                "step code can see process ids; a killed server's steps end by the kernel's death signal only",
                bool(findings["sees_parent"]) and not layers.get("clone"),
            ),
            layer("network", "network namespace", "the filter alone keeps step code from the network"),
            layer(
                "ipc",
                "System V and POSIX queues of its own",
                "the filter alone keeps step code from shared memory",
            ),
            layer("uts", "host name of its own", "step code can read this machine's name"),
            layer(
                "uid",
                "user without rights",
                "step code runs as root or with capabilities",
                bool(findings["root"]),
            ),
            layer(
                "rlimits",
                "memory and file limits (rlimits)",
                "a step can take all of the machine's memory",
                bool(findings["takes_memory"]),
            ),
            layer(
                "privileges",
                "no new privileges, not dumpable",
                "processes of the same user can read a step's memory",
                bool(findings["dumpable"] or not findings["no_new_privileges"]),
            ),
            layer(
                "imports",
                "standard library readable",
                "modules that were not imported at the start cannot be imported by a step",
                not findings["imports"],
            ),
            layer(
                "clone",
                "exit status from the kernel (clone with CLONE_PARENT)",
                "forks cost more and a step's exit status is unknown",
            ),
            layer(
                "addresses",
                "fixed addresses",
                "`id()` and default hashes differ after a shard restart, so a replay may print something else",
            ),
        )
    )


def program(*, fork_flags: int, memory_mb: int, is_full: bool) -> str:
    """The probe's source for these settings."""
    return PROBE % {"fork_flags": fork_flags, "memory_mb": memory_mb, "is_full": is_full}


def read_findings(stdout: str) -> dict[str, bool | str]:
    """What the probe printed. Raises ValueError if it did not finish."""
    findings: dict[str, bool | str] = json.loads(stdout)
    return findings
