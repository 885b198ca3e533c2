"""DuckDB, pandas, polars, `datasets` and pyarrow open a store's folders as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forest import grow_tree
from rstar.store import Kind, Store
from rstar.tree import Tree

REPOSITORY = Path(__file__).resolve().parents[3]
FOREST = {
    round: [grow_tree(f"p{n}", round, num_rollouts=4, scored=round > 1) for n in range(3)] for round in (1, 2)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.create(tmp_path_factory.mktemp("store"))
    for round, trees in FOREST.items():
        with store.writer(round=round) as writer:
            for tree in trees:
                writer.append(tree, level="easy")
    return store.folder


def expected(trees: dict[int, list[Tree]]) -> dict[int, tuple[int, int, int, float]]:
    """By round: nodes, token ids, visits, characters of text."""
    return {
        round: (
            sum(len(tree.nodes) for tree in forest),
            sum(sum(node.token_ids) for tree in forest for node in tree.nodes),
            sum(node.visit_count for tree in forest for node in tree.nodes),
            sum(len(node.text) for tree in forest for node in tree.nodes),
        )
        for round, forest in trees.items()
    }


def totals(rows: list[dict[str, Any]]) -> dict[int, tuple[int, int, int, float]]:
    found: dict[int, tuple[int, int, int, float]] = {}
    for row in rows:
        nodes, ids, visits, characters = found.get(int(row["round"]), (0, 0, 0, 0))
        found[int(row["round"])] = (
            nodes + 1, ids + sum(map(int, row["token_ids"])), visits + row["visit_count"], characters + len(row["text"]),
        )  # fmt: skip
    return found


def test_duckdb_reads_all_columns_with_the_round(folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        table = connection.sql(f"from read_parquet('{folder}/nodes/*/*.parquet', hive_partitioning = true)")
        assert totals(table.to_arrow_table().to_pylist()) == expected(FOREST)


def test_pandas_reads_all_columns_with_the_round(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert totals(pandas.read_parquet(folder / "nodes").to_dict("records")) == expected(FOREST)


def test_polars_reads_all_columns_with_the_round(folder: Path) -> None:
    polars = pytest.importorskip("polars")
    assert totals(polars.read_parquet(folder / "nodes").to_dicts()) == expected(FOREST)
    lazy = polars.scan_parquet(folder / "nodes").filter(polars.col("round") == 2).collect()
    assert totals(lazy.to_dicts()) == expected({2: FOREST[2]})


def test_pyarrow_reads_all_columns_with_the_round(folder: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    assert totals(dataset.dataset(folder / "nodes", partitioning="hive").to_table().to_pylist()) == expected(
        FOREST
    )


def test_datasets_reads_all_columns_with_a_split_per_round(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = {f"round{n}": str(folder / "nodes" / f"round={n}" / "*.parquet") for n in FOREST}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    rows = [{**row, "round": int(split.removeprefix("round"))} for split in loaded for row in loaded[split]]
    assert totals(rows) == expected(FOREST)


def test_the_views_of_the_documentation_show_each_tree_in_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    store = Store.create(tmp_path)
    for num_rollouts in (2, 5):
        with store.writer(round=1) as writer:
            writer.append(grow_tree("p", 1, num_rollouts=num_rollouts), level="easy")
    with store.writer(round=1) as writer:
        writer.append(grow_tree("q", 1, num_rollouts=2), level="hard")
    (sql,) = re.findall(r"```sql\n(.*?)```", (REPOSITORY / "docs" / "store.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        for statement in sql.split(";"):
            if statement.strip():
                connection.execute(statement)
        coverage = dict(connection.execute(statement_of(sql, "SELECT level")).fetchall())
        rows = connection.execute(
            "SELECT problem_id, node_id, q_value FROM newest_nodes ORDER BY problem_id, node_id"
        ).fetchall()
    trees = sorted(store.trees(), key=lambda tree: tree.problem_id)
    assert rows == [(t.problem_id, n, node.q_value) for t in trees for n, node in enumerate(t.nodes)]
    assert coverage == {
        level: float(tree.solved) for level, tree in zip(("easy", "hard"), trees, strict=True)
    }


def statement_of(sql: str, start: str) -> str:
    return next(s for s in sql.split(";") if s.strip().startswith(start))


def test_fault_13_bytes_grow_linearly_over_rollouts(tmp_path: Path) -> None:
    """A tree is written once, when its search ends: twice the rollouts are about twice the bytes, never four times."""
    sizes, nodes = [], []
    for num_rollouts in (16, 32, 64):
        store = Store.create(tmp_path / str(num_rollouts))
        trees = [grow_tree(f"p{n}", 1, num_rollouts=num_rollouts, max_depth=12) for n in range(8)]
        with store.writer(round=1) as writer:
            for tree in trees:
                writer.append(tree)
        sizes.append(sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()))
        nodes.append(store.table(Kind.NODES).num_rows)
    for smaller, larger in ((0, 1), (1, 2)):
        assert sizes[larger] / sizes[smaller] < 1.15 * nodes[larger] / nodes[smaller]
    assert nodes[2] > 2 * nodes[0]


def test_realistic_trees_take_at_most_60_bytes_per_node(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    trees = [grow_tree(f"p{n}", 1, scored=True) for n in range(40)]
    with store.writer(round=1) as writer:
        for tree in trees:
            writer.append(tree)
    size = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    assert size / sum(len(tree.nodes) for tree in trees) <= 60
