"""SQL shows what our reader shows, whatever state a store is in; it changes nothing; what is wrong has one line and a place."""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.forest import grow_tree
from rstar.errors import ConfigError, StoreError
from rstar.store import Kind, Store
from rstar.store.schema import arrow_schema
from rstar.store.sql import Database, find_stores, view_columns

pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two stores: one with reopened trees, several parts, two rounds and a journal; one with drawn rows."""
    folder = tmp_path_factory.mktemp("run")
    store = Store.create(folder / "round1" / "search" / "store")
    with store.writer(round=1) as writer:
        for number in range(3):
            writer.append(grow_tree(f"p{number}", 1, num_rollouts=2), level="easy")
    with store.writer(round=1) as writer:
        writer.append(grow_tree("p1", 1, num_rollouts=4), level="easy")
        writer.flush()
        writer.append(grow_tree("p1", 1, num_rollouts=6), level="easy")
    with store.writer(round=2) as writer:
        writer.append(grow_tree("p0", 2, num_rollouts=3, scored=True), level="hard")
    for number in (1, 2, 3, 4):  # written as if by a writer that was killed
        _leave_in_journal(store, number)
    rows: dict[str, list[Any]] = {
        "problem_id": ["p0"],
        "text": ["t"],
        "token_ids": [[1, 2]],
        "loss_mask": [[0, 1]],
    }
    with Store.create(folder / "round1" / "sft_set" / "store").writer(round=1) as writer:
        writer.write_table(Kind.SFT, pa.table(rows))
    shutil.copytree(store.folder, folder / ".stale" / "store")
    return folder


def _leave_in_journal(store: Store, number: int) -> None:
    writer = store.writer(round=3)
    writer.append(grow_tree(f"j{number}", 3, num_rollouts=1 + number), level="easy")
    assert writer._journal is not None
    path, content = writer._journal.path, writer._journal.path.read_bytes()
    writer.close()
    if number == 1:  # the part is there, and so is still its journal
        path.write_bytes(content)
    elif number == 4:  # the journal alone is there
        path.write_bytes(content)
        for kind in (Kind.NODES, Kind.TREES, Kind.TRAJECTORIES):
            store._layout.part(kind, 3, int(path.stem)).path.unlink()


SEARCH, DRAWN = "round1/search/store", "round1/sft_set/store"


@pytest.fixture(scope="module")
def database(run: Path) -> Iterator[Database]:
    with Database(run) as database:
        yield database


def ask(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with Database(folder) as database:
        return list(database.query(sql))


def test_the_views_show_what_the_reader_shows(run: Path) -> None:
    store = Store(run / SEARCH)
    assert len(list((store.folder / "journal").glob("*.journal"))) >= 1
    records = store.records()
    assert "j4" in {record.problem_id for record in records}
    found = ask(run / SEARCH, "select round, problem_id, version, num_nodes, level from trees order by all")
    assert found == sorted((r.round, r.problem_id, r.version, r.num_nodes, r.level) for r in records)
    rounds = {(r.round, r.problem_id): r for r in records}
    nodes = ask(
        run / SEARCH, "select round, problem_id, node_id, q_value, text, token_ids from nodes order by all"
    )
    expected = [
        (record.round, record.problem_id, node_id, node.q_value, node.text, list(node.token_ids))
        for record in rounds.values()
        for node_id, node in enumerate(store.tree(record.problem_id, round=record.round).nodes)
    ]
    assert nodes == sorted(expected)
    paths = ask(run / SEARCH, "select problem_id, mean_q, answer from trajectories order by all")
    assert paths == sorted((t.problem_id, t.mean_q, t.answer) for t in store.trajectories())


def test_all_stores_of_a_run_are_in_the_views_by_their_path_and_what_is_set_aside_is_not(
    run: Path, database: Database
) -> None:
    assert list(find_stores(run)) == [SEARCH, DRAWN]
    assert list(database.query("select distinct store from trees")) == [(SEARCH,)]
    found = list(database.query("select store, round, text, loss_mask from sft"))
    assert found == [(DRAWN, 1, "t", [0, 1])]
    assert list(database.query("select count(*) from pairs")) == [(0,)]
    assert ask(run / SEARCH, "select distinct store from nodes") == [("store",)]


def test_the_columns_of_a_view_are_those_that_are_documented(database: Database) -> None:
    for kind in Kind:
        columns = [row[0] for row in database.query(f"describe {kind}")]
        assert columns == [name for name, _, _ in view_columns(kind)]
        assert columns[2 : 2 + len(arrow_schema(kind))] == arrow_schema(kind).names


def test_a_relative_folder_and_one_with_a_quote_are_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = tmp_path / "ada's run"
    shutil.copytree(run / SEARCH, quoted)
    monkeypatch.chdir(tmp_path)
    assert ask(Path("ada's run"), "select count(*) from trees") == [(len(Store(quoted).records()),)]


def test_an_empty_store_has_all_views(tmp_path: Path) -> None:
    Store.create(tmp_path)
    assert [ask(tmp_path, f"select * from {kind}") for kind in Kind] == [[]] * len(Kind)


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("select 1 form x", 'SQL, line 1, character 15: syntax error at or near "x"'),
        ("selec", 'SQL, line 1, character 1: syntax error at or near "selec"'),
        ("select\n '数学', nope from trees", 'SQL, line 2, character 8: Referenced column "nope" not found'),
        ("select outcom from trees", 'Candidate bindings: "outcome"'),
        ("select * from tree", 'Did you mean "trees"?'),
        ("select text::int from nodes", "Could not convert string"),
        ("select 1; select 2", "one statement at a time; this text has 2"),
        ("", "one statement at a time; this text has none"),
        ("drop view trees", "a store is only read here: SELECT, not DROP"),
        ("create table t as select 1", "a store is only read here"),
        ("copy (select 1) to 'x.csv'", "a store is only read here: SELECT, not COPY"),
        ("set threads = 1", "a store is only read here"),
        ("attach 'x.db'", "a store is only read here"),
        ("select * from read_text('/etc/hostname')", "Cannot access file"),
        ("select * from 'https://example.org/x.parquet'", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_query_is_one_line_with_its_place(
    run: Path, database: Database, sql: str, line: str
) -> None:
    before = sorted(path for path in run.rglob("*"))
    with pytest.raises(StoreError) as error:
        list(database.query(sql))
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path for path in run.rglob("*")) == before


def test_a_folder_without_a_store_and_an_installation_without_duckdb_are_said_to_be_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="is not a store, and holds none"):
        ask(tmp_path, "select 1")
    real = builtins.__import__

    def without_duckdb(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_duckdb)
    with pytest.raises(ConfigError, match=r"needs the package duckdb; install it with pip install .*\[sql\]"):
        Database(run)


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / SEARCH, tmp_path / "s")
    part = next((tmp_path / "s" / "nodes").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(StoreError, match=part.name):
        ask(tmp_path / "s", "select text from nodes")
