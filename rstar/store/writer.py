"""Appending to a store: a finished tree is durable when `append` returns, and reaches a Parquet part a little later.

Why two steps: a part of one tree compresses badly, and a part of many trees would lose them all if the writer died
before it is written. So a tree goes to the journal first; enough trees make a part, and then their journal goes away.
A part has its journal's number, so repeating an interrupted step writes the same file again and doubles nothing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rstar.config import to_plain
from rstar.errors import StoreError
from rstar.store.catalog import read_catalog
from rstar.store.compaction import finish_compaction
from rstar.store.files import Layout, check_identity, sync_folder, write_part
from rstar.store.journal import Journal, JournalHeader, read_journal
from rstar.store.lock import WriterLock
from rstar.store.rows import TREE_KINDS, TreeRows, to_rows
from rstar.store.schema import Kind, arrow_schema, conform
from rstar.tree import Tree

if TYPE_CHECKING:
    import pyarrow as pa

FLUSH_NODES = 65_536
"""Nodes in the journal that make a part: two row groups, about 3 MB of Parquet."""
FLUSH_TREES = 4_096


def settings_hash(settings: object) -> str:
    """16 hexadecimal digits that name the settings (a dataclass or a mapping), whatever the order of their keys."""
    text = json.dumps(_plain_settings(settings), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain_settings(settings: object) -> dict[str, Any]:
    plain = to_plain(settings)
    if not isinstance(plain, dict):
        raise StoreError(f"settings are {type(settings).__name__}; they must be a dataclass or a mapping")
    try:
        result: dict[str, Any] = json.loads(json.dumps(plain))
    except TypeError as error:
        raise StoreError(f"settings must be plain values: {error}") from None
    return result


class StoreWriter:
    """Appends to one round of a store; made by `Store.writer`. Its methods may be called from any thread.

    Opening finishes what a killed writer left behind. `append` blocks for a few milliseconds (fsync), and each
    `FLUSH_NODES` nodes for about a second: an event loop should call it in a thread.
    """

    def __init__(self, folder: Path, *, round: int, settings: object = None) -> None:
        if round < 0:
            raise StoreError(f"round is {round}; it must be at least 0")
        self.layout = Layout(folder)
        self.round = round
        plain = _plain_settings({} if settings is None else settings)
        self._header = JournalHeader(round, settings_hash(plain), plain)
        check_identity(self.layout)
        self._mutex = threading.Lock()
        self._lock = WriterLock(self.layout.lock, folder)
        try:
            recover(self.layout)
            self._versions = {
                key[1:]: entry.record.version for key, entry in read_catalog(self.layout, round).items()
            }
        except BaseException:
            self._lock.release()
            raise
        self._next_number = self.layout.next_number()
        self._journal: Journal | None = None
        self._rows: list[TreeRows] = []
        self._num_nodes = 0
        self._closed = False

    def append(self, tree: Tree, *, level: str = "", source: str = "", seconds: float = 0.0) -> None:
        """Store a finished tree; durable on return. One that is stored already gets a newer version.

        `level`, `source` are its problem's; `seconds` is the wall time of its search.
        Raises StoreError for a tree not at rest, or one that could not be read back exactly.
        """
        with self._mutex:
            self._check_open()
            key = (tree.problem_id, tree.tree_index)
            version = self._versions.get(key, -1) + 1
            rows = to_rows(
                tree, version=version, level=level, source=source,
                settings_hash=self._header.settings_hash, seconds=seconds,
            )  # fmt: skip
            if self._journal is None:
                self._journal = Journal(self.layout.journal(self._next_number), self._header)
            self._journal.append(rows)
            self._versions[key] = version
            self._rows.append(rows)
            self._num_nodes += len(tree.nodes)
            if self._num_nodes >= FLUSH_NODES or len(self._rows) >= FLUSH_TREES:
                self._flush()

    def write_table(self, kind: Kind | str, table: pa.Table) -> None:
        """Append rows of a kind that is no part of a tree (`pairs`, `sft`) as one part; durable on return.

        Raises StoreError for another kind, or for columns other than the kind's.
        """
        with self._mutex:
            self._check_open()
            if kind not in (Kind.PAIRS, Kind.SFT):
                raise StoreError(
                    f"rows of kind {kind!s} come from trees: append them; tables are for pairs and sft"
                )
            kind = Kind(kind)
            self._flush()
            settings = {self._header.settings_hash: self._header.settings}
            conformed = conform(kind, table)
            write_part(
                self.layout, self.layout.part(kind, self.round, self._next_number), conformed, settings
            )
            self._next_number += 1

    def flush(self) -> None:
        """Bring all appended trees into a part, where other programs see them."""
        with self._mutex:
            self._check_open()
            self._flush()

    def close(self) -> None:
        """Flush and let the next writer in. Harmless if closed already."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            try:
                self._flush()
            finally:
                self._lock.release()

    def _flush(self) -> None:
        """On failure everything stays as it was: the trees are safe in the journal, and the next flush tries again."""
        if self._journal is None:
            return
        try:
            if self._rows:
                write_parts(self.layout, self._next_number, self._header, self._rows)
        except OSError as error:
            raise StoreError(
                f"{self.layout.folder}: no part can be written: {error.strerror}; "
                f"its trees are safe in {self._journal.path.name}, which the next writer finishes"
            ) from error
        journal = self._journal
        self._next_number += 1
        self._journal, self._rows, self._num_nodes = None, [], 0
        journal.close()
        journal.path.unlink()
        sync_folder(self.layout.journals)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the writer of {self.layout.folder} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_parts(layout: Layout, number: int, header: JournalHeader, trees: list[TreeRows]) -> None:
    """A journal's trees as parts of its number, `trees` last."""
    import pyarrow as pa

    by_kind = zip(TREE_KINDS, zip(*trees, strict=True), strict=True)
    for kind, batches in by_kind:
        table = pa.Table.from_batches(batches, arrow_schema(kind))
        write_part(
            layout, layout.part(kind, header.round, number), table, {header.settings_hash: header.settings}
        )


def recover(layout: Layout) -> None:
    """Finish what a killed writer left behind: its compaction, its journals. The caller holds the lock."""
    finish_compaction(layout)
    for temporary in layout.temporary_files():
        temporary.unlink()
    for number, path in layout.journal_files():
        content = read_journal(path)
        if content.header is not None and content.trees:
            # Even if there are parts of this number: the journal holds their trees, and maybe more.
            write_parts(layout, number, content.header, list(content.trees))
        path.unlink()
    sync_folder(layout.journals)
