"""SQL over stores, read-only, through DuckDB: one view per kind of row, over all stores at or below a folder.

The views show what our own reader shows: of a reopened tree the newest version, of a tree that a compaction or a killed
writer left twice one, and trees that are still in a journal. What has no newer version (`pairs`, `sft`) is shown whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rstar.errors import ConfigError, StoreError
from rstar.store.catalog import read_journals
from rstar.store.files import Layout, check_identity
from rstar.store.rows import TREE_KINDS
from rstar.store.schema import COLUMNS, Kind, arrow_schema, first_line

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

IDENTITY = "store.json"
ADDED = {
    "store": ("string", "folder of the store, from the folder asked on"),
    "round": ("int32", "the round"),
}
"""Columns that every view has before those of its kind: type and meaning."""
Q_VALUE = ("q_value", "double", "value_sum / visit_count; 0 where nothing was visited")
"""The last column of `nodes`."""

_KEY = "store, round, problem_id, tree_index, version"
_PLACE = "number, in_journal"
_BATCH_ROWS = 10_000


def find_stores(folder: Path) -> dict[str, Path]:
    """The stores at or below a folder, by name: their path from it, for the folder itself its own name. Hidden folders
    (what a run has set aside) are passed over.

    Raises StoreError if there is none, or one of a newer version.
    """
    found = {
        str(path.parent.relative_to(folder)) if path.parent != folder else folder.name: path.parent
        for path in sorted(folder.rglob(IDENTITY))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not found:
        raise StoreError(f"{folder} is not a store, and holds none: there is no {IDENTITY} in it or below it")
    for path in found.values():
        check_identity(Layout(path))
    return found


class Result:
    """The rows of a query, once: iterate over it."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, statement: str) -> None:
        self._cursor, self._statement = cursor, statement
        self.columns: tuple[str, ...] = tuple(column[0] for column in cursor.description or ())
        self.types: tuple[str, ...] = tuple(str(column[1]) for column in cursor.description or ())

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        import duckdb

        try:
            while rows := self._cursor.fetchmany(_BATCH_ROWS):
                yield from rows
        except duckdb.Error as error:
            raise _explained(error, self._statement) from None


class Database:
    """The stores at or below a folder as views: `nodes`, `trees`, `trajectories`, `pairs`, `sft`. A context manager.

    Nothing can be written through it, and nothing read but these stores. What is appended after it was opened does not show.
    Raises ConfigError without DuckDB, StoreError if there is no store.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import duckdb
        except ImportError:
            raise ConfigError(
                'SQL over a store needs the package duckdb; install it with pip install -c constraints.txt -e ".[sql]"'
            ) from None
        self.stores = find_stores(folder)
        self._connection = duckdb.connect(config={"autoinstall_known_extensions": False})
        try:
            self._make_views(folder)
        except duckdb.Error as error:
            self.close()
            raise _explained(error, "") from None

    def query(self, sql: str) -> Result:
        """Run one statement that reads. Raises StoreError with one line that says what is wrong with it, and where."""
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1:
                raise StoreError(f"one statement at a time; this text has {len(statements) or 'none'}")
            if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                kind = str(statements[0].type).rpartition(".")[2]
                raise StoreError(f"a store is only read here: SELECT, not {kind}")
            return Result(self._connection.execute(sql), sql)
        except duckdb.Error as error:
            raise _explained(error, sql) from None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_views(self, folder: Path) -> None:
        run = self._connection.execute
        # Journals first: one that becomes a part while this runs is then seen twice, never missed.
        for kind, table in _journal_tables(self.stores).items():
            self._connection.register(f"journal_{kind}", table)
        for kind in Kind:
            run(f"CREATE VIEW all_{kind} AS {_all_rows(kind, self.stores)}")
        run(f"""
            CREATE TABLE newest AS SELECT {_KEY}, {_PLACE} FROM all_trees QUALIFY row_number() OVER (
                PARTITION BY store, round, problem_id, tree_index ORDER BY version DESC, in_journal, number) = 1
        """)
        for kind in Kind:
            q_value = ""
            if kind is Kind.NODES:
                q_value = ", CASE WHEN visit_count > 0 THEN value_sum / visit_count ELSE 0 END AS q_value"
            newest = f"SEMI JOIN newest USING ({_KEY}, {_PLACE})" if kind in TREE_KINDS else ""
            run(f"CREATE VIEW {kind} AS SELECT * EXCLUDE ({_PLACE}){q_value} FROM all_{kind} {newest}")
        run(f"SET allowed_directories = [{_literal(str(folder.resolve()))}, {_literal(str(folder))}]")
        run("SET enable_external_access = false")
        run("SET python_enable_replacements = false")
        run("SET errors_as_json = true")
        run("SET lock_configuration = true")


def _all_rows(kind: Kind, stores: dict[str, Path]) -> str:
    """A query for every row of a kind, older versions included, with the store, round and file that it is in."""
    columns = ", ".join(column.name for column in COLUMNS[kind])
    selects = [f"SELECT store, round, {columns}, {_PLACE} FROM journal_{kind}"]
    for name, path in stores.items():
        files = ", ".join(_literal(str(part.path)) for part in Layout(path).parts(kind))
        if files:
            selects.append(rf"""
                SELECT {_literal(name)} AS store, regexp_extract(filename, 'round=(\d+)/[^/]*$', 1)::INT AS round, {columns},
                    regexp_extract(filename, 'part-(\d+)\.parquet$', 1)::INT AS number, false AS in_journal
                FROM read_parquet([{files}], filename = true, hive_partitioning = false)
            """)
    return " UNION ALL ".join(selects)


def _journal_tables(stores: dict[str, Path]) -> dict[Kind, pa.Table]:
    """The trees that are in journals, as tables with the columns of `_all_rows`."""
    import pyarrow as pa

    place = [
        pa.field("store", pa.string()), pa.field("round", pa.int32()),
        pa.field("number", pa.int32()), pa.field("in_journal", pa.bool_()),
    ]  # fmt: skip
    tables: dict[Kind, pa.Table] = {}
    sources = [(name, source) for name, path in stores.items() for source in read_journals(Layout(path))]
    for kind in Kind:
        schema = pa.schema([*place, *arrow_schema(kind)])
        found = [schema.empty_table()]
        for name, source in sources if kind in TREE_KINDS else ():
            assert source.journal is not None, "the source is a journal"
            batches = [getattr(rows, kind) for rows in source.journal.trees]
            rows = pa.Table.from_batches(batches, arrow_schema(kind))
            values: tuple[Any, ...] = (name, source.round, source.number, True)
            fields: tuple[Any, ...] = tuple(place)
            columns: list[Any] = [
                pa.array([value] * rows.num_rows, field.type)
                for value, field in zip(values, fields, strict=True)
            ]
            found.append(pa.Table.from_arrays([*columns, *rows.columns], schema=schema))
        tables[kind] = pa.concat_tables(found)
    return tables


def view_columns(kind: Kind) -> Sequence[tuple[str, str, str]]:
    """Name, type and meaning of each column of a view."""
    added = [(name, *rest) for name, rest in ADDED.items()]
    own = [(column.name, column.type, column.meaning) for column in COLUMNS[kind]]
    return [*added, *own, *([Q_VALUE] if kind is Kind.NODES else [])]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _explained(error: Exception, sql: str) -> StoreError:
    """DuckDB's error as one line: what, and where in the statement."""
    import json

    import duckdb

    _, _, body = str(error).partition(": ")
    try:
        found = json.loads(body)
    except ValueError:
        found = {"exception_message": str(error)}
    lines = [line.strip() for line in found["exception_message"].splitlines() if line.strip()]
    message = "; ".join(lines[:2]) if lines else first_line(error)
    if isinstance(error, duckdb.IOException):
        return StoreError(f"{message}: if the store was compacted meanwhile, ask again")
    if "position" not in found:
        return StoreError(f"SQL: {message}")
    before = sql.encode()[: int(found["position"])].decode(errors="ignore")
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return StoreError(f"SQL, line {line}, character {column}: {message}")
