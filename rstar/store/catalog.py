"""Which trees a store holds, and where: read from the `trees` parts and the journals alone.

A tree may be found several times (older versions; the same version in a part and in its journal, or in two parts during
a compaction): the highest version counts, once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rstar.store.files import Layout, Part, read_part
from rstar.store.journal import JournalContent, read_journal
from rstar.store.rows import Outcome
from rstar.store.schema import Kind, arrow_schema
from rstar.store.text import unescape

if TYPE_CHECKING:
    import pyarrow as pa

TreeKey = tuple[int, str, int]
"""Round, problem id, tree index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRecord:
    """What a store knows of a tree without reading its nodes; the columns of `trees`."""

    round: int
    problem_id: str
    tree_index: int
    version: int
    seed: int
    level: str
    source: str
    settings_hash: str
    num_rollouts: int
    num_tokens: int
    num_executions: int
    num_nodes: int
    num_trajectories: int
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where trees are: a part number, or (`journal` given) a journal not yet in a part."""

    round: int
    number: int
    journal: JournalContent | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A tree's record and where its rows are: first rows in the parts of each kind, or index in the journal."""

    record: TreeRecord
    source: Source
    index: int
    first_node: int
    first_trajectory: int


_COLUMNS = [field.name for field in fields(TreeRecord) if field.name != "round"]


def read_catalog(layout: Layout, round: int | None = None) -> dict[TreeKey, Entry]:
    """The trees of a store (of one round), in the order in which they were written."""
    newest: dict[TreeKey, Entry] = {}
    for entry in all_entries(layout, round):
        record = entry.record
        key = (record.round, record.problem_id, record.tree_index)
        if key not in newest or newest[key].record.version < record.version:
            newest.pop(key, None)
            newest[key] = entry
    return newest


def all_entries(layout: Layout, round: int | None = None) -> list[Entry]:
    """Every tree row, older versions included, in the order of writing."""
    # Journals first: one that becomes a part while this runs is then seen twice, never missed.
    journals = read_journals(layout, round)
    entries = [entry for part in layout.parts(Kind.TREES, round) for entry in part_entries(part)]
    for source in journals:
        entries += journal_entries(source)
    return entries


def read_journals(layout: Layout, round: int | None = None) -> list[Source]:
    sources = []
    for number, path in layout.journal_files():
        try:
            content = read_journal(path)
        except FileNotFoundError:  # it has become a part since
            continue
        if content.header is not None and round in (None, content.header.round):
            sources.append(Source(content.header.round, number, content))
    return sources


def part_entries(part: Part) -> list[Entry]:
    return _entries(read_part(part, _COLUMNS), Source(part.round, part.number))


def journal_entries(source: Source) -> list[Entry]:
    import pyarrow as pa

    assert source.journal is not None, "the source is a journal"
    rows = pa.Table.from_batches((rows.trees for rows in source.journal.trees), arrow_schema(Kind.TREES))
    return _entries(rows.select(_COLUMNS), source)


def _entries(table: pa.Table, source: Source) -> list[Entry]:
    entries = []
    first_node = first_trajectory = 0
    for index, row in enumerate(table.to_pylist()):
        record = _record(source.round, row)
        entries.append(Entry(record, source, index, first_node, first_trajectory))
        first_node += record.num_nodes
        first_trajectory += record.num_trajectories
    return entries


def _record(round: int, row: dict[str, Any]) -> TreeRecord:
    texts = {name: unescape(row[name]) for name in ("problem_id", "level", "source")}
    return TreeRecord(round=round, **{**row, **texts, "outcome": Outcome(row["outcome"])})
