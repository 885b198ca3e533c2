"""The files of a store: where each is, how one is written so that it is whole or absent, how one is opened.

    store.json                         says that this folder is a store, and its schema version; written once
    nodes/round=1/part-00000003.parquet    and so for every kind: rows, in parts that never change
    journal/00000004.journal           finished trees not yet in a part (`rstar.store.journal`)
    journal/lock                       held by the one writer
    journal/compaction.json            a compaction that has to be carried through
    journal/*.tmp                      half-written, of no meaning

Parts of different kinds with one number hold the same trees, in the same order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.errors import StoreError
from rstar.store.schema import (
    SCHEMA_VERSION,
    Kind,
    arrow_schema,
    column_encodings,
    dictionary_columns,
    first_line,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 32_768
"""A row group is what one tree's reading costs; a page is as large as its row group, because zstd looks no further."""
PAGE_BYTES = 16 << 20
COMPRESSION_LEVEL = 9
STATISTICS = ["problem_id", "tree_index"]
"""Columns by which other programs can skip row groups."""

VERSION_KEY = b"rstar.schema_version"
KIND_KEY = b"rstar.kind"
SETTINGS_KEY = b"rstar.settings"
"""In a part's Parquet metadata: JSON, the settings of each `settings_hash` that its rows name."""

_PART_NAME = re.compile(r"part-(\d{8,})\.parquet")
_ROUND_NAME = re.compile(r"round=(\d+)")

Settings = Mapping[str, Any]
"""Settings by settings hash."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One Parquet file. Parts sort by round, then number."""

    round: int
    number: int
    kind: Kind
    path: Path


class Layout:
    """The paths of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity = folder / "store.json"
        self.journals = folder / "journal"
        self.lock = self.journals / "lock"
        self.compaction = self.journals / "compaction.json"

    def part(self, kind: Kind, round: int, number: int) -> Part:
        return Part(round, number, kind, self.folder / kind / f"round={round}" / f"part-{number:08d}.parquet")

    def parts(self, kind: Kind, round: int | None = None) -> list[Part]:
        """The parts of a kind (of one round), in the order in which they were written."""
        found = []
        for path in (self.folder / kind).glob("round=*/part-*.parquet"):
            in_round, name = _ROUND_NAME.fullmatch(path.parent.name), _PART_NAME.fullmatch(path.name)
            if in_round and name and round in (None, int(in_round[1])):
                found.append(Part(int(in_round[1]), int(name[1]), kind, path))
        return sorted(found)

    def journal(self, number: int) -> Path:
        return self.journals / f"{number:08d}.journal"

    def journal_files(self) -> list[tuple[int, Path]]:
        """Journals with their numbers, oldest first."""
        return sorted(
            (int(path.stem), path) for path in self.journals.glob("*.journal") if path.stem.isdigit()
        )

    def temporary(self, part: Part) -> Path:
        """Where a part is written before anybody may see it."""
        return self.journals / f"{part.kind}-{part.round}-{part.number:08d}.tmp"

    def temporary_files(self) -> Iterator[Path]:
        return self.journals.glob("*.tmp")

    def next_number(self) -> int:
        numbers = [part.number for kind in Kind for part in self.parts(kind)]
        numbers += [number for number, _ in self.journal_files()]
        return max(numbers, default=0) + 1

    def relative(self, path: Path) -> str:
        """A path as it is told to the user, from the store's folder on."""
        return str(path.relative_to(self.folder.parent))


def write_identity(layout: Layout) -> None:
    text = json.dumps({"format": "rstar store", "schema_version": SCHEMA_VERSION}) + "\n"
    write_whole(layout, layout.identity, text.encode())


def check_identity(layout: Layout) -> None:
    """Raise StoreError unless the folder is a store of a version that this code reads."""
    try:
        identity = json.loads(layout.identity.read_text("utf-8"))
        version = identity["schema_version"]
    except FileNotFoundError:
        raise StoreError(f"{layout.folder} is not a store: it has no {layout.identity.name}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{layout.identity} is damaged: {first_line(error)}") from None
    check_version(version, str(layout.identity))


def check_version(version: object, where: str) -> None:
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema version {version}; this installation reads up to {SCHEMA_VERSION}: install a newer rstar"
        )


def write_whole(layout: Layout, path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole, durably, or not at all."""
    temporary = layout.journals / f"{path.name}.tmp"
    temporary.write_bytes(content)
    _sync(temporary)
    temporary.rename(path)
    sync_folder(path.parent)


def write_part(layout: Layout, part: Part, table: pa.Table, settings: Settings) -> None:
    """Write a part so that it is there whole, durably, or not at all. An equal part may be there already."""
    prepare_part(layout, part, table, settings)
    publish_part(layout, part)


def prepare_part(layout: Layout, part: Part, table: pa.Table, settings: Settings) -> None:
    """Write a part, durably, where no reader sees it."""
    import pyarrow.parquet as pq

    metadata = {
        VERSION_KEY: str(SCHEMA_VERSION).encode(),
        KIND_KEY: str(part.kind).encode(),
        SETTINGS_KEY: json.dumps(settings, sort_keys=True).encode(),
    }
    options: dict[str, Any] = {
        "compression": "zstd", "compression_level": COMPRESSION_LEVEL, "row_group_size": ROW_GROUP_ROWS,
        "data_page_size": PAGE_BYTES, "use_dictionary": dictionary_columns(part.kind),
        "column_encoding": column_encodings(part.kind), "write_statistics": STATISTICS, "write_page_checksum": True,
    }  # fmt: skip
    temporary = layout.temporary(part)
    pq.write_table(table.replace_schema_metadata(metadata), temporary, **options)
    _sync(temporary)


def publish_part(layout: Layout, part: Part) -> None:
    """Show a prepared part to readers, in one step. Harmless if that was done before."""
    part.path.parent.mkdir(parents=True, exist_ok=True)
    if layout.temporary(part).exists():
        layout.temporary(part).rename(part.path)
    for folder in (part.path.parent, part.path.parent.parent, layout.folder):
        sync_folder(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the folder's list of files durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_part(part: Part) -> pq.ParquetFile:
    """Open a part, and check that it is what it should be; pages are checked as they are read.

    Raises StoreError, naming the file, if it is gone, damaged, of a newer version, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(part.path, page_checksum_verification=True)
    except FileNotFoundError:
        raise StoreError(f"{part.path} is gone: the store was compacted meanwhile; read it again") from None
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{part.path} is damaged: {first_line(error)}") from None
    schema = file.schema_arrow
    metadata = schema.metadata or {}
    version = metadata.get(VERSION_KEY, b"").decode()
    check_version(int(version) if version.isdigit() else None, str(part.path))
    for field in arrow_schema(part.kind):
        if field.name not in schema.names:
            raise StoreError(f"{part.path} has no column {field.name!r}, which {part.kind} rows need")
        if schema.field(field.name).type != field.type:
            found = schema.field(field.name).type
            raise StoreError(f"{part.path}: column {field.name!r} is {found}; it must be {field.type}")
    return file


def read_part(part: Part, columns: list[str] | None = None) -> pa.Table:
    """Raises StoreError, naming the file, as `open_part` does."""
    with open_part(part) as file:
        return read_groups(part, file, range(file.num_row_groups), columns)


def read_groups(
    part: Part, file: pq.ParquetFile, groups: range, columns: list[str] | None = None
) -> pa.Table:
    """Row groups of an open part."""
    import pyarrow as pa

    # Handing a few rows to a thread pool takes longer than decoding them.
    use_threads = file.metadata.num_rows > 2_000
    try:
        return file.read_row_groups(list(groups), columns=columns, use_threads=use_threads)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{part.path} is damaged: {first_line(error)}") from None


def settings_of(file: pq.ParquetFile) -> dict[str, Any]:
    metadata = file.schema_arrow.metadata or {}
    settings: dict[str, Any] = json.loads(metadata.get(SETTINGS_KEY, b"{}"))
    return settings
