"""Finished trees on their way into a part: an append-only file of checksummed records, durable record by record.

    magic, then records of (length of the body: u32, its crc32: u32, crc32 of these 8 bytes: u32, body), little-endian
    first body: JSON with `schema_version`, `round`, `settings_hash`, `settings`
    each further body: one tree, its Arrow batches of `TREE_KINDS`, each preceded by its length as u32

A record cut short, or wrong at the very end, is what a killed writer or a power cut leaves, and is dropped: it was never
acknowledged. Anything else wrong is damage, and is never passed over in silence.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar.errors import StoreError
from rstar.store.files import check_version, sync_folder
from rstar.store.rows import TREE_KINDS, TreeRows
from rstar.store.schema import SCHEMA_VERSION, arrow_schema

MAGIC = b"rstar journal 1\n"
_HEAD = struct.Struct("<II")
_CHECK = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CHECK.size
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What all trees of a journal share."""

    round: int
    settings_hash: str
    settings: Any


@dataclass(frozen=True, slots=True)
class JournalContent:
    """A journal as read. `header` is None if its writer was killed before there was one."""

    header: JournalHeader | None
    trees: tuple[TreeRows, ...]
    torn_bytes: int
    """Length of the tail that is dropped."""


class Journal:
    """A journal being written. `append` returns once the tree is durable."""

    def __init__(self, path: Path, header: JournalHeader) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._size = 0
        body = {
            "schema_version": SCHEMA_VERSION, "round": header.round,
            "settings_hash": header.settings_hash, "settings": header.settings,
        }  # fmt: skip
        self._write(MAGIC + _record(json.dumps(body).encode()))
        sync_folder(path.parent)

    def append(self, rows: TreeRows) -> None:
        bodies = [batch.serialize().to_pybytes() for batch in rows]
        self._write(_record(b"".join(_LENGTH.pack(len(body)) + body for body in bodies)))

    def close(self) -> None:
        os.close(self._file)

    def _write(self, content: bytes) -> None:
        """All of `content`, durably, or nothing: a full disk leaves no half record that a later one would bury."""
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise StoreError(
                f"{self.path} cannot be written: {error.strerror}; the tree is not stored"
            ) from error
        self._size += len(content)


def _record(body: bytes) -> bytes:
    head = _HEAD.pack(len(body), zlib.crc32(body))
    return head + _CHECK.pack(zlib.crc32(head)) + body


def read_journal(path: Path) -> JournalContent:
    """Raises StoreError, naming file and byte, for damage before the end, or a journal of another schema version."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        if MAGIC.startswith(content):
            return JournalContent(None, (), len(content))
        raise StoreError(f"{path} is no journal: move it away")
    bodies, end = _bodies(content, path)
    torn = len(content) - end
    if not bodies:
        return JournalContent(None, (), torn)
    head = json.loads(bodies[0])
    check_version(head["schema_version"], str(path))
    header = JournalHeader(head["round"], head["settings_hash"], head["settings"])
    return JournalContent(header, tuple(_tree_rows(body) for body in bodies[1:]), torn)


def _bodies(content: bytes, path: Path) -> tuple[list[bytes], int]:
    """Bodies of the whole records, and where they end."""
    bodies, at = [], len(MAGIC)
    while at + _HEAD_BYTES <= len(content):
        head = content[at : at + _HEAD.size]
        length, checksum = _HEAD.unpack(head)
        start, end = at + _HEAD_BYTES, at + _HEAD_BYTES + length
        body = content[start:end]
        head_holds = _CHECK.unpack_from(content, at + _HEAD.size)[0] == zlib.crc32(head)
        if not head_holds or (len(body) == length and zlib.crc32(body) != checksum):
            torn = not any(content[at:]) if not head_holds else end == len(content)
            if not torn:
                raise StoreError(f"{path} is damaged at byte {at}: move it away to go on without its trees")
            break
        if len(body) < length:
            break
        bodies.append(body)
        at = end
    return bodies, at


def _tree_rows(body: bytes) -> TreeRows:
    import pyarrow as pa

    return TreeRows(*(
        pa.ipc.read_record_batch(pa.py_buffer(part), arrow_schema(kind))
        for kind, part in zip(TREE_KINDS, _split(body), strict=True)
    ))  # fmt: skip


def _split(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        yield body[at : at + length]
        at += length
