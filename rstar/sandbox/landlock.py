"""Landlock: an unprivileged process forbids itself the file system, TCP, and signals to others (Linux 5.13)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from rstar.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 0, 1 << 2, 1 << 3, 1 << 1
# Rights on files by version of the interface: 13 bits at first, then refer, truncate, (none), device ioctl.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6


def version() -> int:
    """Version of the kernel's interface. Raises OSError without Landlock."""
    return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def restrict(readable: Iterable[str], devices: Iterable[str]) -> int:
    """Allow reading and executing below `readable`, reading and writing `devices`, and no other file; no TCP bind or
    connect, no signals or abstract sockets out of this domain, as far as the kernel knows them.

    For this process and all it forks, for ever. Needs no_new_privs. Returns the interface's version.
    """
    abi = version()
    handled_files = (1 << _FILE_RIGHTS[min(abi, 5)]) - 1
    handled_network = 0b11 if abi >= _NETWORK_SINCE else 0
    scoped = 0b11 if abi >= _SCOPES_SINCE else 0
    size = 24 if abi >= _SCOPES_SINCE else 16 if abi >= _NETWORK_SINCE else 8
    attributes = struct.pack("<QQQ", handled_files, handled_network, scoped)[:size]
    ruleset = kernel.syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR | _EXECUTE)
        for path in devices:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ~_READ_DIR
        rule = struct.pack("<Qi", rights, descriptor)
        kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)
