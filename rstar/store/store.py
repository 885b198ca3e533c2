"""A store: a folder of whole trees and of what is drawn from them, in Parquet, partitioned by round.

    store = Store.create("runs/round1/trees")
    with store.writer(round=1, settings=config) as writer:
        done = store.keys(round=1)
        ...
        writer.append(tree, level=problem.level, source=problem.source, seconds=4.2)
    for tree in store.trees(round=1): ...

One process writes at a time; any number read, also meanwhile, and see what was acknowledged so far.
Other programs read the Parquet files as they are (`docs/store.md`); they see a tree once it has reached a part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.errors import StoreError
from rstar.store.catalog import Entry, TreeRecord, read_catalog, read_journals
from rstar.store.compaction import CompactionReport, compact
from rstar.store.files import Layout, check_identity, open_part, settings_of, write_identity
from rstar.store.lock import WriterLock
from rstar.store.reader import by_source, read_table
from rstar.store.rows import Outcome
from rstar.store.schema import Kind, arrow_schema
from rstar.store.validation import Fault, validate
from rstar.store.writer import StoreWriter, recover
from rstar.trajectories import Trajectory
from rstar.tree import Tree

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """What a store holds of one round; trees count once, whatever their versions."""

    round: int
    num_trees: int
    num_solved: int
    num_nodes: int
    num_trajectories: int
    num_tokens: int
    num_executions: int
    seconds: float
    num_files: int
    num_bytes: int
    """Of the Parquet files, older versions of trees included."""


class Store:
    """An existing store. Raises StoreError if the folder is none, or one of a newer version."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self._layout = Layout(self.folder)
        check_identity(self._layout)

    @classmethod
    def create(cls, folder: str | PathLike[str]) -> Store:
        """Open a store, making it first if there is none."""
        layout = Layout(Path(folder))
        try:
            layout.journals.mkdir(parents=True, exist_ok=True)
            if not layout.identity.exists():
                write_identity(layout)
        except OSError as error:
            raise StoreError(f"no store can be made in {folder}: {error.strerror}") from None
        return cls(folder)

    def writer(self, *, round: int, settings: object = None) -> StoreWriter:
        """Open the store for writing, after finishing what a killed writer left behind.

        `settings` (a dataclass or a mapping of plain values) are kept with the trees, and named by their hash.
        Raises StoreError, naming the holder, if another writer is at work.
        """
        return StoreWriter(self.folder, round=round, settings=settings)

    def keys(
        self, round: int | None = None, *, outcomes: Collection[Outcome] | None = None
    ) -> set[tuple[str, int]]:
        """(problem id, tree index) of the stored trees, of these outcomes if given: what a resumed search skips."""
        return {
            (record.problem_id, record.tree_index)
            for record in self.records(round)
            if outcomes is None or record.outcome in outcomes
        }

    def records(self, round: int | None = None) -> list[TreeRecord]:
        """What is known of each tree without reading its nodes, in the order of writing."""
        return [entry.record for entry in read_catalog(self._layout, round).values()]

    def settings(self, round: int | None = None) -> dict[str, Any]:
        """The settings with which the trees were made, by `TreeRecord.settings_hash`."""
        found: dict[str, Any] = {}
        for source in read_journals(self._layout, round):
            if source.journal is not None and source.journal.header is not None:
                found[source.journal.header.settings_hash] = source.journal.header.settings
        for part in self._layout.parts(Kind.TREES, round):
            with open_part(part) as file:
                found |= settings_of(file)
        return found

    def trees(
        self, round: int | None = None, *, problem_ids: Collection[str] | None = None
    ) -> Iterator[Tree]:
        """The newest version of each tree, one after the other, in the order of writing."""
        for entry, rows in by_source(self._layout, self._entries(round, problem_ids)):
            yield rows.tree(entry)

    def tree(self, problem_id: str, tree_index: int = 0, *, round: int) -> Tree:
        """One tree. Raises StoreError if it is not there."""
        entry = read_catalog(self._layout, round).get((round, problem_id, tree_index))
        if entry is None:
            raise StoreError(f"{self.folder} has no tree {problem_id}#{tree_index} of round {round}")
        for found, rows in by_source(self._layout, [entry]):
            return rows.tree(found)
        raise AssertionError("an entry has a source")

    def trajectories(
        self, round: int | None = None, *, problem_ids: Collection[str] | None = None
    ) -> Iterator[Trajectory]:
        """The trajectories of the newest versions, without reading their nodes."""
        for entry, rows in by_source(self._layout, self._entries(round, problem_ids)):
            yield from rows.trajectories(entry)

    def table(self, kind: Kind | str, round: int | None = None) -> pa.Table:
        """All rows of a kind with their `round`, as in the Parquet files: older versions of trees included, and not
        the trees that are in no part yet."""
        import pyarrow as pa

        kind = Kind(kind)
        with_round = arrow_schema(kind).append(pa.field("round", pa.int32(), nullable=False))
        tables = [table.cast(with_round) for table in read_table(self._layout, kind, round)]
        return pa.concat_tables(tables) if tables else with_round.empty_table()

    def summary(self) -> list[RoundSummary]:
        """A row per round."""
        records = self.records()
        parts = [part for kind in Kind for part in self._layout.parts(kind)]
        summaries = []
        for round in sorted({r.round for r in records} | {part.round for part in parts}):
            trees = [record for record in records if record.round == round]
            files = [part for part in parts if part.round == round]
            summaries.append(RoundSummary(
                round=round, num_trees=len(trees), num_solved=sum(t.outcome is Outcome.SOLVED for t in trees),
                num_nodes=sum(t.num_nodes for t in trees), num_trajectories=sum(t.num_trajectories for t in trees),
                num_tokens=sum(t.num_tokens for t in trees), num_executions=sum(t.num_executions for t in trees),
                seconds=sum(t.seconds for t in trees), num_files=len(files),
                num_bytes=sum(part.path.stat().st_size for part in files),
            ))  # fmt: skip
        return summaries

    def validate(self) -> list[Fault]:
        """Read everything and return what is wrong; empty for a sound store. Nothing is changed."""
        return list(validate(self._layout))

    def compact(self) -> CompactionReport:
        """Rewrite small parts as large ones and drop older versions of trees. Raises StoreError as `writer` does."""
        with WriterLock(self._layout.lock, self.folder):
            recover(self._layout)
            return compact(self._layout)

    def _entries(self, round: int | None, problem_ids: Collection[str] | None) -> list[Entry]:
        wanted = None if problem_ids is None else set(problem_ids)
        entries = read_catalog(self._layout, round).values()
        return [entry for entry in entries if wanted is None or entry.record.problem_id in wanted]
