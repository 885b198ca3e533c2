"""The messages between pool, shard server and interpreters: fixed headers and bytes, nothing that executes on reading.

Pool and server speak over a stream socket (they trust each other). Server and interpreters speak over
SOCK_SEQPACKET, one message per packet; what comes from an interpreter is untrusted and checked by its reader.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rstar.protocols import ExecutionVerdict

VERDICTS = tuple(ExecutionVerdict)
"""A verdict travels as its index here."""
OK, ERROR, TIMEOUT, MEMORY, OUTPUT_LIMIT, BLOCKED, KILLED = range(len(VERDICTS))
SANDBOX_FAILED = 255
"""Not a verdict: the sandbox could not run the step; the error text says why."""

# Pool -> server: length of the rest, operation, request id, flags, bytes of the group, number of codes, then the
# codes' lengths, the group and the codes (history first, the step's own code last).
REQUEST = struct.Struct("<IBQBII")
LENGTH = struct.Struct("<I")
RUN, CANCEL, RELEASE = range(3)
KEEP_STATE, LAST_CHILD = 1, 2

# Server -> pool: length of the rest, request id, verdict, replayed steps, bytes of stdout, characters cut, CPU
# seconds, wall seconds, then three numbers of the shard (live snapshots, evictions, nondeterministic steps), then
# stdout and error.
REPLY = struct.Struct("<IQBIIQddIII")

# Server -> interpreter: one byte, then the code. FORK carries the descriptor of the child's socket.
FORK, IN_PLACE = b"F", b"P"
# Interpreter -> server: HELLO from a new child (with its credentials), NO_FORK from a parent that could not fork,
# or DONE: verdict, characters of stdout cut, bytes of stdout, then stdout and the error.
HELLO, NO_FORK = b"H", b"N"
DONE = struct.Struct("<cBQI")
DONE_MARK = b"D"

MAX_PACKET = 65_536 * 4 + 64
"""Bytes of the longest message to an interpreter: the longest code in UTF-8."""
MAX_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class Request:
    """One decoded request of the pool."""

    operation: int
    request_id: int
    flags: int
    group: str
    codes: tuple[str, ...]


def encode_request(operation: int, request_id: int, flags: int, group: str, codes: tuple[str, ...]) -> bytes:
    """One frame for the server."""
    group_bytes = group.encode("utf-8", "surrogatepass")
    code_bytes = [code.encode("utf-8", "surrogatepass") for code in codes]
    sizes = struct.pack(f"<{len(code_bytes)}I", *map(len, code_bytes))
    body = b"".join((sizes, group_bytes, *code_bytes))
    size = REQUEST.size - LENGTH.size + len(body)
    return REQUEST.pack(size, operation, request_id, flags, len(group_bytes), len(code_bytes)) + body


def decode_request(frame: bytes) -> Request:
    """Read one frame (with its length) that `encode_request` wrote."""
    _, operation, request_id, flags, group_size, num_codes = REQUEST.unpack_from(frame)
    sizes = struct.unpack_from(f"<{num_codes}I", frame, REQUEST.size)
    at = REQUEST.size + 4 * num_codes + group_size
    group = frame[at - group_size : at].decode("utf-8", "surrogatepass")
    codes = []
    for size in sizes:
        codes.append(frame[at : at + size].decode("utf-8", "surrogatepass"))
        at += size
    return Request(operation, request_id, flags, group, tuple(codes))


def split_frames(buffer: bytearray) -> list[bytes]:
    """Take the complete frames (each with its length) off the front of `buffer`."""
    frames = []
    start = 0
    while len(buffer) - start >= LENGTH.size:
        end = start + LENGTH.size + LENGTH.unpack_from(buffer, start)[0]
        if end > len(buffer):
            break
        frames.append(bytes(buffer[start:end]))
        start = end
    if start:
        del buffer[:start]
    return frames
