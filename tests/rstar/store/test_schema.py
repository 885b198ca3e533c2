"""The columns: documented as they are, written by one writer, small imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.forest import grow_tree
from rstar.config import SearchConfig
from rstar.errors import StoreError
from rstar.protocols import SamplingConfig
from rstar.store import SCHEMA_VERSION, Kind, Store, settings_hash
from rstar.store.schema import COLUMNS, arrow_schema, column_table

REPOSITORY = Path(__file__).resolve().parents[3]
SFT: dict[str, list[Any]] = {"problem_id": ["p"], "text": ["t"], "token_ids": [[1, 2]], "loss_mask": [[0, 1]]}


@pytest.mark.parametrize("kind", Kind)
def test_the_documented_columns_are_those_of_the_schema(kind: Kind) -> None:
    document = (REPOSITORY / "docs" / "store.md").read_text("utf-8")
    section = re.search(rf"^### {kind}\n\n(.*?)(?:\n\n|\n\Z)", document, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert section[1] == column_table(kind), "write column_table(kind) into docs/store.md"


def test_files_hold_the_documented_columns_version_and_settings(tmp_path: Path) -> None:
    config = SearchConfig(num_rollouts=3)
    store = Store.create(tmp_path)
    with store.writer(round=4, settings=config) as writer:
        writer.append(grow_tree("p", 1, num_rollouts=2))
        writer.write_table(Kind.SFT, pa.table(SFT))
    for kind in (Kind.NODES, Kind.TREES, Kind.TRAJECTORIES, Kind.SFT):
        (path,) = (tmp_path / kind).glob("round=4/*.parquet")
        schema = pq.read_schema(path)
        assert schema.names == [column.name for column in COLUMNS[kind]]
        assert schema.equals(arrow_schema(kind))
        metadata = schema.metadata or {}
        assert metadata[b"rstar.schema_version"] == str(SCHEMA_VERSION).encode()
        assert metadata[b"rstar.kind"] == str(kind).encode()
        (settings,) = json.loads(metadata[b"rstar.settings"]).items()
        assert settings[0] == settings_hash(config) == store.records()[0].settings_hash
        assert settings[1]["num_rollouts"] == 3
        assert settings[1]["unvisited_score"] == ".inf"


def test_settings_hash_is_of_the_values_alone() -> None:
    assert settings_hash({"a": 1, "b": {"c": [1, 2]}}) == settings_hash({"b": {"c": (1, 2)}, "a": 1})
    assert settings_hash(SearchConfig()) == settings_hash(SearchConfig(num_rollouts=16))
    changed = [
        SearchConfig(),
        SearchConfig(num_rollouts=15),
        SearchConfig(sampling=SamplingConfig(top_k=1)),
        {},
    ]
    assert len({settings_hash(settings) for settings in changed}) == 4
    assert re.fullmatch("[0-9a-f]{16}", settings_hash({}))


@pytest.mark.parametrize(
    ("settings", "message"), [(3, "must be a dataclass or a mapping"), ({"a": Path("x")}, "plain")]
)
def test_settings_that_cannot_be_kept_are_refused(tmp_path: Path, settings: object, message: str) -> None:
    store = Store.create(tmp_path)
    with pytest.raises(StoreError, match=message):
        store.writer(round=1, settings=settings)
    with store.writer(round=1):
        pass


def test_sft_rows_come_back_and_missing_nullable_columns_are_null(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.writer(round=2) as writer:
        writer.write_table("sft", pa.table(SFT))
        writer.write_table("sft", pa.table({**SFT, "mean_q": [0.5], "tree_index": [1]}))
    rows = store.table("sft").to_pylist()
    assert rows == [
        {**{name: values[0] for name, values in SFT.items()}, "round": 2, "mean_q": q, "tree_index": index}
        for q, index in ((None, None), (0.5, 1))
    ]
    assert store.table("pairs").num_rows == 0
    assert store.validate() == []


def test_pairs_are_written_by_the_same_writer(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "problem_id": "p", "kind": "step", "prefix": "q", "chosen": "a", "rejected": "b", "prefix_token_ids": [1], "chosen_token_ids": [2],
        "rejected_token_ids": [3], "chosen_q": 1.0, "rejected_q": -1.0, "chosen_node": 3,
    }  # fmt: skip
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        writer.write_table("pairs", pa.Table.from_pylist([row, row]))
    assert [{key: found[key] for key in row} for found in store.table("pairs", 1).to_pylist()] == [row, row]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("sft", {"text": None}, "sft rows need a column 'text'"),
        ("sft", {"colour": ["red"]}, "sft rows have no column 'colour'; their columns are problem_id"),
        ("sft", {"text": [None]}, "column 'text' holds a null"),
        ("sft", {"token_ids": [[-1]]}, "column 'token_ids' must be list"),
        ("sft", {"token_ids": ["x"]}, "column 'token_ids' must be list"),
        ("nodes", {}, "rows of kind nodes come from trees"),
        ("poems", {}, "rows of kind poems come from trees"),
    ],
)
def test_other_columns_and_kinds_are_one_clear_line(
    tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    columns = {name: values for name, values in {**SFT, **change}.items() if values is not None}
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer, pytest.raises(StoreError, match=message) as refusal:
        writer.write_table(kind, pa.table(columns))
    assert "\n" not in str(refusal.value)
    assert store.table("sft").num_rows == 0


def test_a_closed_writer_and_a_negative_round_are_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    writer = store.writer(round=1)
    writer.close()
    writer.close()
    for use in (writer.flush, lambda: writer.append(grow_tree("p", 1, num_rollouts=1))):
        with pytest.raises(StoreError, match="is closed"):
            use()
    with pytest.raises(StoreError, match="round is -1"):
        store.writer(round=-1)
    with pytest.raises(StoreError, match="has no tree p#0 of round 1"):
        store.tree("p", round=1)


def test_summary_counts_by_round(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    assert store.summary() == []
    forest = [grow_tree(f"p{n}", n, num_rollouts=4) for n in range(3)]
    for round, chosen in ((1, forest[:2]), (2, forest[2:])):
        with store.writer(round=round) as writer:
            for tree in chosen:
                writer.append(tree, seconds=2.0)
    first, second = store.summary()
    assert (first.round, first.num_trees, first.seconds) == (1, 2, 4.0)
    assert first.num_nodes == sum(len(tree.nodes) for tree in forest[:2])
    assert first.num_tokens == sum(tree.num_tokens for tree in forest[:2])
    assert second.num_solved == int(forest[2].solved)
    size = sum(path.stat().st_size for path in tmp_path.rglob("round=1/*.parquet"))
    assert (first.num_files, first.num_bytes) == (3, size)


def test_importing_the_store_loads_no_parquet_and_no_models() -> None:
    program = (
        "import sys, rstar.store; print(sorted({'pyarrow', 'pandas', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
