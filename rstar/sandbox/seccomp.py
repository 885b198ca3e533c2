"""The system-call filter of step code: an allow-list in BPF, with a gate for forks.

Default is EPERM, so that an attempt becomes Python's PermissionError and the verdict `blocked`. Numbers the list
does not know yet are ENOSYS. x86_64 only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from rstar.sandbox import kernel

# fmt: off
_ALLOWED = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34,
    "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "sendfile": 40, "sendto": 44,
    "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51, "getpeername": 52,
    "getsockopt": 55, "exit": 60, "uname": 63, "getcwd": 79, "chdir": 80, "fchdir": 81, "readlink": 89,
    "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115,
    "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124, "capget": 125, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "statfs": 137, "fstatfs": 138,
    "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146,
    "sched_get_priority_min": 147, "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "epoll_create": 213, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "newfstatat": 262, "readlinkat": 267,
    "faccessat": 269, "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "get_robust_list": 274,
    "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295,
    "pwritev": 296, "getcpu": 309, "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334,
    "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441,
}
# fmt: on
_OPEN, _OPENAT, _IOCTL, _FCNTL, _CLONE, _PRCTL, _PRLIMIT64 = 2, 257, 16, 72, 56, 157, 302
_CLONE3, _OPENAT2, _FIRST_UNKNOWN = 435, 437, 463
_X32_BIT = 0x40000000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # and O_TMPFILE
# FIOCLEX, FIONCLEX, FIONREAD, FIONBIO, TCGETS (what isatty asks), TIOCGWINSZ
_IOCTLS = (0x5451, 0x5450, 0x541B, 0x5421, 0x5401, 0x5413)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_FCNTLS = (0, 1, 2, 3, 4, 1030)

_ARCH_X86_64 = 0xC000003E
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO, _USER_NOTIFY = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER = 317, 1, 8

Instruction = tuple[int, int, int, int]


def build(*, gated: bool) -> bytes:
    """The filter program. `gated`: a fork asks the listener; otherwise the fork pattern alone is allowed."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _instructions(gated))


def _instructions(gated: bool) -> Iterator[Instruction]:
    deny = _ERRNO | errno.EPERM
    yield (_LOAD, 0, 0, _ARCH)
    yield from _unless(_JUMP_EQUAL, _ARCH_X86_64, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    yield from _when(_JUMP_GREATER_EQUAL, _X32_BIT, deny)
    for number in _ALLOWED.values():
        yield from _when(_JUMP_EQUAL, number, _ALLOW)
    yield from _when(_JUMP_GREATER_EQUAL, _FIRST_UNKNOWN, _ERRNO | errno.ENOSYS)
    yield from _when(_JUMP_EQUAL, _CLONE3, _ERRNO | errno.ENOSYS)
    yield from _when(_JUMP_EQUAL, _OPENAT2, _ERRNO | errno.ENOSYS)
    for number, argument in ((_OPEN, 1), (_OPENAT, 2)):
        yield from _rule(
            number,
            [
                (_LOAD, 0, 0, _low(argument)),
                (_JUMP_SET, 0, 1, _WRITE_FLAGS),
                (_RETURN, 0, 0, _ERRNO | errno.EACCES),
                (_RETURN, 0, 0, _ALLOW),
            ],
        )
    for number, values in ((_IOCTL, _IOCTLS), (_FCNTL, _FCNTLS)):
        yield from _rule(number, [*_one_of(1, values), (_RETURN, 0, 0, deny)])
    fork = _USER_NOTIFY if gated else _ALLOW
    yield from _rule(
        _CLONE,
        [
            (_LOAD, 0, 0, _high(0)),
            *_unless(_JUMP_EQUAL, 0, deny),
            (_LOAD, 0, 0, _low(0)),
            *_when(_JUMP_EQUAL, int(kernel.FORK_FLAGS), fork),
            (_RETURN, 0, 0, deny),
        ],
    )
    yield from _rule(
        _PRCTL,
        [
            *_one_of(0, (kernel.PR_GET_DUMPABLE, kernel.PR_GET_NO_NEW_PRIVS)),
            *_unless(_JUMP_EQUAL, kernel.PR_SET_PDEATHSIG, deny),
            *_one_of(1, (9,)),
            (_RETURN, 0, 0, deny),
        ],
    )
    yield from _rule(_PRLIMIT64, [*_one_of(0, (0,)), (_RETURN, 0, 0, deny)])
    yield (_RETURN, 0, 0, deny)


def _when(test: int, value: int, action: int) -> Iterator[Instruction]:
    yield (test, 0, 1, value)
    yield (_RETURN, 0, 0, action)


def _unless(test: int, value: int, action: int) -> Iterator[Instruction]:
    yield (test, 1, 0, value)
    yield (_RETURN, 0, 0, action)


def _one_of(argument: int, values: tuple[int, ...]) -> Iterator[Instruction]:
    yield (_LOAD, 0, 0, _low(argument))
    for value in values:
        yield from _when(_JUMP_EQUAL, value, _ALLOW)


def _rule(number: int, body: list[Instruction]) -> Iterator[Instruction]:
    yield (_JUMP_EQUAL, 0, len(body), number)
    yield from body


def _low(argument: int) -> int:
    return _ARGUMENTS + 8 * argument


def _high(argument: int) -> int:
    return _ARGUMENTS + 8 * argument + 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(*, gated: bool) -> int | None:
    """Filter this process and all it forks, for ever. Needs no_new_privs.

    Returns the descriptor of the gate's listener, or None with `gated=False`. Raises OSError: EBUSY where an outer
    runtime listens already, EINVAL or ENOSYS without the feature.
    """
    code = build(gated=gated)
    program = _Program(len(code) // 8, code)
    flags = _NEW_LISTENER if gated else 0
    result = kernel.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
    return result if gated else None
