"""Reading trees back, one after the other: a store larger than memory is no matter.

A row group is decoded once when trees are read in the order of their writing, which `read_trees` does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rstar.errors import StoreError
from rstar.store.catalog import Entry, Source
from rstar.store.files import Layout, Part, open_part, read_groups, read_part
from rstar.store.rows import from_rows, trajectory_of
from rstar.store.schema import Kind, arrow_schema
from rstar.store.text import escape
from rstar.trajectories import Trajectory
from rstar.tree import Tree

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


class PartRows:
    """Runs of rows of one part, holding the row groups decoded last."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._file: pq.ParquetFile = open_part(part)
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = list(accumulate(counts, initial=0))
        self._groups = range(0)
        self._table: pa.Table | None = None

    @property
    def num_rows(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, count: int) -> pa.Table:
        """Raises StoreError, naming the file, if the part has fewer rows, or is damaged."""
        if start + count > self.num_rows:
            raise StoreError(
                f"{self.part.path} ends at row {self.num_rows}; a tree should have rows up to {start + count}"
            )
        first = bisect_right(self._starts, start) - 1
        last = max(bisect_right(self._starts, start + count - 1) - 1, first) if count else first
        groups = range(first, last + 1) if count else range(0)
        if self._table is None or not (set(groups) <= set(self._groups)):
            self._groups = groups
            self._table = read_groups(self.part, self._file, groups)
        offset = self._starts[self._groups.start] if self._groups else 0
        return self._table.slice(start - offset, count) if count else self._table.slice(0, 0)

    def close(self) -> None:
        self._file.close()


class SourceRows:
    """The rows of the trees of one source, by kind."""

    def __init__(self, layout: Layout, source: Source) -> None:
        self._layout, self._source = layout, source
        self._parts: dict[Kind, PartRows] = {}

    def rows(self, kind: Kind, entry: Entry) -> pa.Table:
        """The rows of one tree. Raises StoreError if another tree's are in their place."""
        import pyarrow as pa

        if self._source.journal is not None:
            tree_rows = self._source.journal.trees[entry.index]
            batch = {
                Kind.NODES: tree_rows.nodes,
                Kind.TRAJECTORIES: tree_rows.trajectories,
                Kind.TREES: tree_rows.trees,
            }
            return pa.Table.from_batches([batch[kind]], arrow_schema(kind))
        if kind not in self._parts:
            self._parts[kind] = PartRows(self._layout.part(kind, self._source.round, self._source.number))
        record = entry.record
        start, count = {
            Kind.NODES: (entry.first_node, record.num_nodes),
            Kind.TRAJECTORIES: (entry.first_trajectory, record.num_trajectories),
            Kind.TREES: (entry.index, 1),
        }[kind]
        table = self._parts[kind].rows(start, count)
        expected = (escape(record.problem_id), record.tree_index, record.version)
        for row in (0, count - 1) if count else ():
            found = tuple(table.column(name)[row].as_py() for name in ("problem_id", "tree_index", "version"))
            if found != expected:
                path = self._parts[kind].part.path
                raise StoreError(f"{path} row {start + row}: a row of {found}, where {expected} is expected")
        return table

    def tree(self, entry: Entry) -> Tree:
        (row,) = self.rows(Kind.TREES, entry).to_pylist()
        return from_rows(self.rows(Kind.NODES, entry), row)

    def trajectories(self, entry: Entry) -> list[Trajectory]:
        return [trajectory_of(row) for row in self.rows(Kind.TRAJECTORIES, entry).to_pylist()]

    def close(self) -> None:
        for part in self._parts.values():
            part.close()


def by_source(layout: Layout, entries: Iterable[Entry]) -> Iterator[tuple[Entry, SourceRows]]:
    """Entries with the open files that hold their rows; files of one source at a time are open."""
    rows: SourceRows | None = None
    current: Source | None = None
    try:
        for entry in sorted(entries, key=_place):
            if rows is None or entry.source is not current:
                if rows is not None:
                    rows.close()
                current, rows = entry.source, SourceRows(layout, entry.source)
            yield entry, rows
    finally:
        if rows is not None:
            rows.close()


def _place(entry: Entry) -> tuple[int, int, int]:
    return entry.source.round, entry.source.number, entry.index


def read_table(layout: Layout, kind: Kind, round: int | None) -> Iterator[pa.Table]:
    """The rows of a kind as they are in its parts, a table per part, with their `round`."""
    import pyarrow as pa

    for part in layout.parts(kind, round):
        table = read_part(part)
        column: Any = pa.array([part.round] * table.num_rows, pa.int32())
        yield table.replace_schema_metadata(None).append_column(
            pa.field("round", pa.int32(), nullable=False), column
        )
