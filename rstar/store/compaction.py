"""Rewriting many small parts as few large ones, without older versions of reopened trees.

A reader that opens files in the middle of it may find a tree twice (ours count it once), never not at all: new parts
are whole before old ones go. The plan is durable before the first new part shows, so that the next writer carries an
interrupted compaction through; without a plan nothing has happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rstar.store.catalog import Entry, part_entries, read_catalog
from rstar.store.files import (
    Layout,
    Part,
    Settings,
    open_part,
    prepare_part,
    publish_part,
    read_part,
    settings_of,
    sync_folder,
    write_whole,
)
from rstar.store.reader import by_source
from rstar.store.rows import TREE_KINDS
from rstar.store.schema import Kind, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT_NODES = 262_144
"""Nodes of a compacted part: what is held in memory at once, about 100 MB."""


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did."""

    num_files_before: int
    num_files_after: int
    num_bytes_before: int
    num_bytes_after: int
    num_versions_dropped: int


def compact(layout: Layout) -> CompactionReport:
    """Compact every round. The caller holds the lock and has recovered the store."""
    before = _all_parts(layout)
    bytes_before = sum(part.path.stat().st_size for part in before)
    dropped = 0
    for round in sorted({part.round for part in before}):
        dropped += _rewrite_trees(layout, round)
        for kind in (Kind.PAIRS, Kind.SFT):
            _rewrite_rows(layout, kind, round)
    after = _all_parts(layout)
    return CompactionReport(
        len(before), len(after), bytes_before, sum(part.path.stat().st_size for part in after), dropped
    )


def finish_compaction(layout: Layout) -> None:
    """Carry an interrupted compaction through. The caller holds the lock."""
    try:
        plan = json.loads(layout.compaction.read_bytes())
    except FileNotFoundError:
        return
    for kind, round, number in plan["new"]:
        publish_part(layout, layout.part(Kind(kind), round, number))
    for kind, round, number in plan["old"]:
        layout.part(Kind(kind), round, number).path.unlink(missing_ok=True)
    layout.compaction.unlink()
    sync_folder(layout.journals)


def _replace(layout: Layout, old: list[Part], new: list[Part]) -> None:
    """Show the prepared parts and remove those they stand for."""
    plan = {
        name: [(part.kind, part.round, part.number) for part in parts]
        for name, parts in (("new", new), ("old", old))
    }
    write_whole(layout, layout.compaction, json.dumps(plan).encode())
    finish_compaction(layout)


def _rewrite_trees(layout: Layout, round: int) -> int:
    """Keep the newest version of each tree, sorted by problem; returns how many older ones are left out."""
    parts = layout.parts(Kind.TREES, round)
    entries = list(read_catalog(layout, round).values())
    num_dropped = sum(len(part_entries(part)) for part in parts) - len(entries)
    if len(parts) <= 1 and not num_dropped:
        return 0
    settings = _settings(parts)
    new = []
    for number, tables in enumerate(_chunks(layout, entries), start=layout.next_number()):
        for kind in TREE_KINDS:
            part = layout.part(kind, round, number)
            prepare_part(layout, part, tables[kind], settings)
            new.append(part)
    _replace(layout, [part for kind in TREE_KINDS for part in layout.parts(kind, round)], new)
    return num_dropped


def _chunks(layout: Layout, entries: list[Entry]) -> Iterator[dict[Kind, pa.Table]]:
    held: list[tuple[Entry, dict[Kind, pa.Table]]] = []
    num_nodes = 0
    for entry, rows in by_source(layout, entries):
        held.append((entry, {kind: rows.rows(kind, entry) for kind in TREE_KINDS}))
        num_nodes += entry.record.num_nodes
        if num_nodes >= COMPACT_NODES:
            yield _sorted(held)
            held, num_nodes = [], 0
    if held:
        yield _sorted(held)


def _sorted(held: list[tuple[Entry, dict[Kind, pa.Table]]]) -> dict[Kind, pa.Table]:
    import pyarrow as pa

    held = sorted(held, key=lambda item: (item[0].record.problem_id, item[0].record.tree_index))
    return {
        kind: pa.concat_tables([tables[kind].cast(arrow_schema(kind)) for _, tables in held])
        for kind in TREE_KINDS
    }


def _rewrite_rows(layout: Layout, kind: Kind, round: int) -> None:
    import pyarrow as pa

    parts = layout.parts(kind, round)
    if len(parts) <= 1:
        return
    tables = [read_part(part).cast(arrow_schema(kind)) for part in parts]
    part = layout.part(kind, round, layout.next_number())
    prepare_part(layout, part, pa.concat_tables(tables), _settings(parts))
    _replace(layout, parts, [part])


def _settings(parts: list[Part]) -> Settings:
    settings: dict[str, Any] = {}
    for part in parts:
        with open_part(part) as file:
            settings |= settings_of(file)
    return settings


def _all_parts(layout: Layout) -> list[Part]:
    return [part for kind in Kind for part in layout.parts(kind)]
