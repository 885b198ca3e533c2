"""The mount jail: a file system that holds Python, its allowed libraries and three devices, all read-only."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rstar.sandbox import kernel

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_SCRATCH = "/proc"
"""Where the new root is put together: a directory that exists everywhere and holds nothing that goes into it."""


def enter(readable: Iterable[str]) -> None:
    """Make the paths in `readable`, the system's shared libraries and the devices all that this process can see.

    Must be called in a new mount namespace with the right to mount. Raises OSError; the process is then in no fit
    state to go on with a jail, but still has its old view or a smaller one.
    """
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=256k,mode=755")
    paths = dict.fromkeys((*SYSTEM_LIBRARIES, *readable, *DEVICES))
    bound: list[str] = []
    for path in sorted(paths, key=len):
        if not os.path.lexists(path) or path.startswith(_SCRATCH):
            continue
        target = _SCRATCH + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif not any(path.startswith(f"{outer}/") for outer in bound):
            _bind(path, target)
            bound.append(path)
    kernel.pivot_root(_SCRATCH)
    kernel.make_read_only("/")


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    kernel.mount(path, target, "", kernel.MS_BIND | kernel.MS_REC)
