"""The few Linux system calls that the standard library does not wrap, through ctypes.

Every function raises OSError with the kernel's errno. Numbers are those of x86_64 where they differ by architecture.
"""

from __future__ import annotations

import builtins
import ctypes
import itertools
import os
import signal
import sys

# Forking happens beside step code: a step that spoils `builtins` must not spoil it (see `runner`).
globals()["__builtins__"] = dict(vars(builtins))

IS_LINUX = sys.platform == "linux"
IS_FULL_PATH = IS_LINUX and os.uname().machine == "x86_64"
"""Whether the whole recipe exists here: system call numbers and filter are written for x86_64 Linux."""

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PARENT, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID = 0x00008000, 0x01000000, 0x00200000
FORK_FLAGS = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | signal.SIGCHLD
"""The one way to fork that the filter knows: glibc's own fork lacks CLONE_PARENT."""

MS_REC, MS_PRIVATE, MS_BIND, MS_NOSUID, MS_NODEV = 0x4000, 0x40000, 0x1000, 0x2, 0x4
MNT_DETACH = 2
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 3, 4
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 36, 38, 39

_SYS_CLONE, _SYS_CAPSET, _SYS_PIVOT_ROOT, _SYS_MOUNT_SETATTR = 56, 126, 155, 442
_MADV_COLLAPSE = 25
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4

libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the GIL during the call: the forked child must own it.
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)


def check(result: int) -> int:
    """The result of a call of `libc`, or the OSError that errno names."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def syscall(number: int, *arguments: object) -> int:
    """One raw system call; integers are passed as 64-bit, pointers as ctypes objects."""
    widened = (ctypes.c_long(item) if isinstance(item, int) else item for item in arguments)
    return check(libc.syscall(ctypes.c_long(number), *widened))


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones."""
    check(libc.unshare(flags))


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) with one argument."""
    return check(libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0))


def die_with_parent() -> None:
    """SIGKILL to this process when its parent ends. Not inherited by a fork; lost when the user id changes."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def disable_address_randomization() -> None:
    """From the next exec on, and in everything it starts."""
    persona = check(libc.personality(ctypes.c_ulong(0xFFFFFFFF)))
    check(libc.personality(ctypes.c_ulong(persona | ADDR_NO_RANDOMIZE)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    check(
        libc.mount(
            source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
        )
    )


def make_read_only(path: str) -> None:
    """Make the mount at `path` and all below it read-only, without set-user-id and devices (Linux 5.12)."""
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID
    settings = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, ctypes.c_char_p(path.encode()), _AT_RECURSIVE, settings, 32)


def pivot_root(new_root: str) -> None:
    """Make `new_root`, a mount point, the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    syscall(_SYS_PIVOT_ROOT, ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    check(libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability in this user namespace."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    syscall(_SYS_CAPSET, header, (ctypes.c_uint32 * 6)())


def ignore_stopped_children() -> None:
    """No SIGCHLD when a child merely stops. Call after the handler was set, from the main thread."""
    # struct sigaction of glibc on x86_64 and aarch64: handler (8), mask (128), flags (4), padding, restorer (8).
    action = ctypes.create_string_buffer(152)
    check(libc.sigaction(signal.SIGCHLD, None, action))
    flags = ctypes.c_int.from_buffer(action, 136)
    flags.value |= 1  # SA_NOCLDSTOP
    check(libc.sigaction(signal.SIGCHLD, action, None))


def collapse_heap() -> int:
    """Put this process' private memory on huge pages, so that a fork copies few page-table entries (Linux 6.1).

    Returns the number of bytes collapsed; regions that the kernel refuses are left as they are.
    """
    huge = 2 * 1024 * 1024
    collapsed = 0
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps]
    for fields in regions:
        if fields[1] != "rw-p" or (len(fields) > 5 and fields[5] != "[heap]"):
            continue
        low, high = (int(address, 16) for address in fields[0].split("-"))
        start, end = -(-low // huge) * huge, high // huge * huge
        for address in range(start, end, huge):
            if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(huge), _MADV_COLLAPSE) == 0:
                collapsed += huge
    return collapsed


def merge_library_data() -> int:
    """Undo what the loader did last: give each library's relocated constants the rights of the data behind them.

    The kernel then keeps one region instead of two, and the cost of forking a deep state, which grows with regions
    times depth, shrinks. The rights protect a process against itself only, and a step may do with its own as it likes.
    Returns the number of regions merged.
    """
    read_write = 3
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps]
    merged = 0
    for constants, data in itertools.pairwise(regions):
        of_one_file = len(constants) > 5 and constants[5:] == data[5:] and constants[5].startswith("/")
        if of_one_file and (constants[1], data[1]) == ("r--p", "rw-p"):
            low, high = (int(address, 16) for address in constants[0].split("-"))
            if data[0].startswith(f"{high:x}-"):
                size = ctypes.c_size_t(high - low)
                merged += libc.mprotect(ctypes.c_void_p(low), size, read_write) == 0
    return merged


_clone = _libc_with_gil.syscall
_clone.argtypes = [ctypes.c_long] + [ctypes.c_ulong] * 5
_clone.restype = ctypes.c_long
_thread_id = ctypes.c_int()
_clone_arguments = (_SYS_CLONE, FORK_FLAGS, 0, 0, ctypes.addressof(_thread_id), 0)


def fork_sibling() -> int:
    """Fork a child of this process' *parent*: 0 in the child, its pid in the caller, -errno on failure.

    Python's after-fork hooks do not run: they cost about 0.5 ms in page faults and would re-seed `random`. Right only
    in a process with a single thread.
    """
    pid = int(_clone(*_clone_arguments))
    return pid if pid >= 0 else -ctypes.get_errno()
