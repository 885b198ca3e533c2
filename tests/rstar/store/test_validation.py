"""Each kind of damage is found, and named with its file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.forest import grow_tree
from rstar.errors import StoreError
from rstar.store import SCHEMA_VERSION, Kind, Store
from rstar.store.files import VERSION_KEY

NODES, TREES, TRAJECTORIES = (
    f"{kind}/round=1/part-00000001.parquet" for kind in ("nodes", "trees", "trajectories")
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s")
    with store.writer(round=1, settings={"num_rollouts": 4}) as writer:
        for number in range(3):
            writer.append(grow_tree(f"p{number}", 2, num_rollouts=8, num_candidates=3), seconds=1.5)
        writer.flush()
        row: dict[str, list[Any]] = {
            "problem_id": ["p"],
            "text": ["t"],
            "token_ids": [[1, 2]],
            "loss_mask": [[0, 1]],
        }
        writer.write_table("sft", pa.table(row))
    assert store.validate() == []
    return store


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pq.read_table(path, partitioning=None))
    pq.write_table(table, path)


def put(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    field = table.schema.field(name).with_nullable(True)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def found(store: Store) -> list[str]:
    return [str(fault) for fault in store.validate()]


def row_of(path: Path, condition: Callable[[dict[str, Any]], bool]) -> int:
    return next(
        i for i, row in enumerate(pq.read_table(path, partitioning=None).to_pylist()) if condition(row)
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("visit_count", 77, "N is 8, its parts add up to"),
        ("value_sum", 1e6, "W does not add up|Q is"),
        ("depth", 9, "depth is its parent's plus one"),
        ("closed", None, "closed is None"),
        ("parent", 4, "cannot be read|parent"),
        ("kind", "poem", "cannot be read: 'poem'"),
        ("node_id", 55, "node ids do not count up"),
        ("mean_logprob", float("nan"), "mean_logprob is nan"),
        ("problem_id", "other", "is expected"),
        ("version", 8, "is expected"),
    ],
)
def test_a_wrong_value_in_a_node_is_found(store: Store, column: str, value: Any, message: str) -> None:
    path = store.folder / NODES
    row = (
        0
        if column in ("problem_id", "version")
        else row_of(path, lambda r: r["parent"] == 0 and r["execution"] == "ok")
    )
    rewrite(path, lambda table: put(table, column, row, value))
    (fault,) = store.validate()
    assert fault.row == 0
    assert re.search(message, fault.what), fault.what


@pytest.mark.parametrize(
    ("file", "column", "value", "message"),
    [
        (TREES, "outcome", "unjudged", "its outcome is unjudged"),
        (TREES, "settings_hash", "0" * 16, "settings 0000000000000000 are not in the file's metadata"),
        (TREES, "num_nodes", 3, "rows of s/trees/round=1/part-00000001.parquet add up to"),
        (TREES, "outcome", "great", "'great'"),
        (TRAJECTORIES, "mean_q", 0.123, "its trajectories are not those of its nodes"),
        (TRAJECTORIES, "text", "", "its trajectories are not those of its nodes"),
        ("sft/round=1/part-00000002.parquet", "loss_mask", [1], "2 token ids, but a loss mask of 1"),
        ("sft/round=1/part-00000002.parquet", "text", None, "column 'text' is null"),
    ],
)
def test_rows_that_do_not_agree_are_found(
    store: Store, file: str, column: str, value: Any, message: str
) -> None:
    rewrite(store.folder / file, lambda table: put(table, column, 0, value))
    assert message in " | ".join(found(store))


@pytest.mark.parametrize("kind", ["nodes", "trees", "trajectories"])
def test_a_flipped_bit_anywhere_in_a_page_is_found(store: Store, kind: str) -> None:
    path = store.folder / kind / "round=1" / "part-00000001.parquet"
    content = path.read_bytes()
    for at in range(60, len(content) * 2 // 3, max(len(content) // 9, 1)):
        damaged = bytearray(content)
        damaged[at] ^= 0x04
        path.write_bytes(damaged)
        assert found(store), f"byte {at}"
    path.write_bytes(content)
    assert found(store) == []


@pytest.mark.parametrize("file", [NODES, TREES, TRAJECTORIES, "sft/round=1/part-00000002.parquet"])
def test_a_file_cut_short_is_named(store: Store, file: str) -> None:
    path = store.folder / file
    path.write_bytes(path.read_bytes()[:-100])
    (fault,) = store.validate()
    assert fault.file == f"s/{file}"
    assert fault.what.startswith("is damaged")


@pytest.mark.parametrize("file", [NODES, TRAJECTORIES])
def test_a_missing_file_is_named(store: Store, file: str) -> None:
    (store.folder / file).unlink()
    assert found(store) == [f"s/{file}: missing"]


def test_nodes_without_their_trees_are_found(store: Store) -> None:
    (store.folder / TREES).unlink()
    assert found(store) == [
        f"s/{file}: no trees part of number 1 goes with it" for file in (NODES, TRAJECTORIES)
    ]


def test_a_missing_column_is_named(store: Store) -> None:
    rewrite(store.folder / NODES, lambda table: table.drop_columns(["stdout"]))
    assert found(store) == [f"s/{NODES}: has no column 'stdout', which nodes rows need"]
    with pytest.raises(StoreError, match=r"part-00000001\.parquet has no column 'stdout'"):
        list(store.trees())


def test_a_column_of_another_type_is_named(store: Store) -> None:
    rewrite(
        store.folder / NODES,
        lambda t: t.set_column(t.schema.get_field_index("depth"), "depth", pc.cast(t["depth"], "string")),
    )
    assert found(store) == [f"s/{NODES}: column 'depth' is string; it must be int32"]


def test_a_newer_part_is_refused(store: Store) -> None:
    newer = {VERSION_KEY: str(SCHEMA_VERSION + 1)}
    rewrite(store.folder / TREES, lambda table: table.replace_schema_metadata(newer))
    with pytest.raises(StoreError, match="has schema version 2; this installation reads up to 1"):
        store.keys()
    assert "schema version 2" in found(store)[0]


def test_a_newer_store_is_refused(store: Store) -> None:
    (store.folder / "store.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(
        StoreError, match="schema version 2; this installation reads up to 1: install a newer"
    ):
        Store(store.folder)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a store: it has no store\.json"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="is not a store"):
        Store(tmp_path / "none")
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="no store can be made in"):
        Store.create(tmp_path / "file")


def test_a_tree_that_is_twice_there_is_found(store: Store) -> None:
    for file in (NODES, TREES, TRAJECTORIES):
        path = store.folder / file
        path.with_name("part-00000009.parquet").write_bytes(path.read_bytes())
    faults = found(store)
    assert len(faults) == 3
    assert "version 0 of tree p0#0 is also in s/trees/round=1/part-00000001.parquet" in faults[0]
    assert len(list(store.trees())) == 3, "our readers count it once"


def test_a_foreign_file_among_the_parts_is_found(store: Store) -> None:
    (store.folder / "nodes" / "round=1" / "notes.parquet").write_text("x")
    assert found(store) == [
        "s/nodes/round=1/notes.parquet: not a part of this store; other programs will read it as one"
    ]


def test_a_damaged_journal_is_found_and_stops_the_next_writer(store: Store) -> None:
    (store.folder / "journal" / "00000009.journal").write_bytes(b"something else")
    assert found(store) == ["s/journal/00000009.journal: is no journal: move it away"]
    with pytest.raises(StoreError, match="is no journal"):
        store.writer(round=1)
    (store.folder / "journal" / "00000009.journal").unlink()
    with store.writer(round=1):
        pass


def test_a_broken_tree_in_the_journal_is_found(store: Store) -> None:
    writer = store.writer(round=2)
    tree = grow_tree("p", 1, num_rollouts=2)
    tree.nodes[0].visit_count += 1
    writer.append(tree)
    faults = store.validate()
    writer.close()
    assert [(fault.file, fault.row) for fault in faults] == [("s/journal/00000003.journal", 0)]
    assert "p#0 node 0: N is 3" in faults[0].what


def test_validation_changes_nothing(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    store.validate()
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    assert store.table(Kind.NODES).num_rows == sum(record.num_nodes for record in store.records())
