"""Everything that can be wrong in a store, found by reading all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from rstar.errors import StoreError
from rstar.store.catalog import Entry, Source, journal_entries, part_entries
from rstar.store.files import KIND_KEY, Layout, Part, open_part, read_part, settings_of
from rstar.store.journal import read_journal
from rstar.store.reader import SourceRows
from rstar.store.rows import outcome_of
from rstar.store.schema import COLUMNS, Kind, first_line
from rstar.trajectories import Trajectory, trajectories
from rstar.tree import Tree, check_invariants


class Remedy(StrEnum):
    """What to do about a fault. Nothing is repaired silently: what was damaged is moved away by hand, and made again."""

    SEARCH_AGAIN = (
        "move the parts of that number away, in nodes/, trajectories/ and trees/ alike; the search that wrote them, "
        "started again, then makes their trees anew"
    )
    DRAW_AGAIN = "move the file away, and draw its rows from the trees again"
    COMPACT = "run `rstar store compact`: it finishes what a killed writer left behind, and keeps one of equal trees"
    MOVE_AWAY = "move the file out of the store"
    MOVE_JOURNAL = "move the journal away; the search that wrote it, started again, then makes its trees anew"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `row` counts from 0 in the file; None where the whole file is meant."""

    file: str
    row: int | None
    what: str
    remedy: Remedy = Remedy.SEARCH_AGAIN

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f' row {self.row}'}: {self.what}"


def validate(layout: Layout) -> Iterator[Fault]:
    """The faults of a store, file by file: damaged files, wrong columns, broken trees, rows that do not agree."""
    seen: dict[tuple[int, str, int, int], str] = {}
    for part in layout.parts(Kind.TREES):
        yield from _tree_faults(layout, part, seen)
    for kind in (Kind.NODES, Kind.TRAJECTORIES):
        for part in layout.parts(kind):
            if not layout.part(Kind.TREES, part.round, part.number).path.exists():
                what = f"no trees part of number {part.number} goes with it"
                remedy = Remedy.COMPACT if layout.journal(part.number).exists() else Remedy.MOVE_AWAY
                yield Fault(layout.relative(part.path), None, what, remedy)
    for kind in (Kind.PAIRS, Kind.SFT):
        for part in layout.parts(kind):
            yield from _row_faults(layout, part)
    yield from _journal_faults(layout, seen)
    known = {part.path for kind in Kind for part in layout.parts(kind)}
    for kind in Kind:
        for path in sorted((layout.folder / kind).rglob("*")):
            if path.is_file() and path not in known:
                what = "not a part of this store; other programs will read it as one"
                yield Fault(layout.relative(path), None, what, Remedy.MOVE_AWAY)


def _tree_faults(layout: Layout, part: Part, seen: dict[tuple[int, str, int, int], str]) -> Iterator[Fault]:
    file = layout.relative(part.path)
    try:
        entries = part_entries(part)
        with open_part(part) as opened:
            known_settings, kind = (
                settings_of(opened),
                (opened.schema_arrow.metadata or {}).get(KIND_KEY, b"").decode(),
            )
    except (StoreError, ValueError) as error:
        yield _fault(layout, part, error)
        return
    if kind != part.kind:
        yield Fault(file, None, f"its rows are of kind {kind!r}, in the folder of {part.kind}")
    sizes = {
        Kind.NODES: sum(e.record.num_nodes for e in entries),
        Kind.TRAJECTORIES: sum(e.record.num_trajectories for e in entries),
    }
    whole = True
    for other, expected in sizes.items():
        part_of_kind = layout.part(other, part.round, part.number)
        try:
            found = len(read_part(part_of_kind))
        except StoreError as error:
            missing = not part_of_kind.path.exists()
            yield Fault(
                layout.relative(part_of_kind.path),
                None,
                "missing" if missing else _reason(error, part_of_kind),
            )
            whole = False
        else:
            if found != expected:
                what = f"has {found} rows; the rows of {file} add up to {expected}"
                yield Fault(layout.relative(part_of_kind.path), None, what)
    for entry in entries:
        if entry.record.settings_hash not in known_settings:
            yield Fault(
                file, entry.index, f"settings {entry.record.settings_hash} are not in the file's metadata"
            )
    if whole:
        rows = SourceRows(layout, Source(part.round, part.number))
        try:
            for entry in entries:
                yield from _entry_faults(layout, rows, entry, file, seen)
        finally:
            rows.close()


def _entry_faults(
    layout: Layout, rows: SourceRows, entry: Entry, file: str, seen: dict[tuple[int, str, int, int], str]
) -> Iterator[Fault]:
    record = entry.record
    key = (record.round, record.problem_id, record.tree_index, record.version)
    if key in seen:
        what = f"version {record.version} of tree {_name(entry)} is also in {seen[key]}"
        yield Fault(file, entry.index, what, Remedy.COMPACT)
    seen[key] = file
    try:
        tree, stored = rows.tree(entry), rows.trajectories(entry)
    except (StoreError, KeyError, ValueError, IndexError) as error:
        yield Fault(file, entry.index, f"tree {_name(entry)} cannot be read: {first_line(error)}")
        return
    node_ids = rows.rows(Kind.NODES, entry).column("node_id").to_pylist()
    if node_ids != list(range(len(tree.nodes))):
        yield Fault(file, entry.index, f"tree {_name(entry)}: its node ids do not count up from 0")
    yield from (Fault(file, entry.index, what) for what in tree_faults(tree, stored, entry))


def tree_faults(tree: Tree, stored: list[Trajectory], entry: Entry) -> Iterator[str]:
    """What is wrong with a tree that can be read."""
    try:
        check_invariants(tree)
    except (AssertionError, IndexError) as error:
        yield first_line(error)
        return
    for node_id, node in enumerate(tree.nodes):
        for name in ("mean_logprob", "value_sum", "initial_value"):
            value = getattr(node, name)
            if value is not None and not math.isfinite(value):
                yield f"{tree.name} node {node_id}: {name} is {value}"
    try:
        derived = trajectories(tree)
    except AssertionError as error:
        yield f"{tree.name}: {first_line(error)}"
        return
    if derived != stored:
        yield f"{tree.name}: its trajectories are not those of its nodes"
    if outcome_of(tree) is not entry.record.outcome:
        yield f"{tree.name}: its outcome is {entry.record.outcome}; its nodes say {outcome_of(tree)}"


def _row_faults(layout: Layout, part: Part) -> Iterator[Fault]:
    file = layout.relative(part.path)
    try:
        table = read_part(part)
    except StoreError as error:
        yield Fault(file, None, _reason(error, part), Remedy.DRAW_AGAIN)
        return
    for column in COLUMNS[part.kind]:
        if table.column(column.name).null_count and not column.nullable:
            row = table.column(column.name).is_null().to_pylist().index(True)
            yield Fault(file, row, f"column {column.name!r} is null", Remedy.DRAW_AGAIN)
    if part.kind is Kind.SFT:
        for row, (ids, mask) in enumerate(
            zip(table["token_ids"].to_pylist(), table["loss_mask"].to_pylist(), strict=True)
        ):
            if ids is not None and mask is not None and len(ids) != len(mask):
                what = f"{len(ids)} token ids, but a loss mask of {len(mask)}"
                yield Fault(file, row, what, Remedy.DRAW_AGAIN)


def _journal_faults(layout: Layout, seen: dict[tuple[int, str, int, int], str]) -> Iterator[Fault]:
    """A torn tail is no fault: it was never acknowledged, and the next writer drops it."""
    for number, path in layout.journal_files():
        file = layout.relative(path)
        try:
            content = read_journal(path)
        except StoreError as error:
            what = first_line(error).removeprefix(f"{path} ")
            yield Fault(file, None, what, Remedy.MOVE_JOURNAL)
            continue
        if content.header is None or layout.part(Kind.TREES, content.header.round, number).path.exists():
            continue
        source = Source(content.header.round, number, content)
        rows = SourceRows(layout, source)
        for entry in journal_entries(source):
            yield from _entry_faults(layout, rows, entry, file, seen)


def _fault(layout: Layout, part: Part, error: Exception) -> Fault:
    return Fault(layout.relative(part.path), None, _reason(error, part))


def _reason(error: Exception, part: Part) -> str:
    return first_line(error).removeprefix(str(part.path)).lstrip(": ")


def _name(entry: Entry) -> str:
    return f"{entry.record.problem_id}#{entry.record.tree_index}"
