"""Preference pairs as rows of a store's `pairs` tables, and back into their groups, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppm.groups import Continuation, PairGroup, PairKind
from rstar.store import Kind, Store
from rstar.store.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_KEY = ("problem_id", "tree_index", "kind", "prefix_node")


def to_table(groups: Sequence[PairGroup]) -> pa.Table:
    """One row per pair, group after group, in order."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for group in groups:
        for pair in group.preference_pairs():
            row = {
                "problem_id": pair.problem_id,
                "tree_index": pair.tree_index,
                "kind": str(pair.kind),
                "prefix_node": pair.parent,
                "prefix": pair.prefix_text,
                "prefix_token_ids": pair.prefix_ids,
            }
            for side, continuation in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                row[side] = continuation.text
                row[f"{side}_token_ids"] = continuation.token_ids
                row[f"{side}_node"] = continuation.node_id
                row[f"{side}_depth"] = continuation.depth
                row[f"{side}_q"] = continuation.q_value
            rows.append(row)
    schema = arrow_schema(Kind.PAIRS)
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def read_groups(store: Path, round_index: int) -> list[PairGroup]:
    """The groups of a round, in the order in which they were written."""
    rows = Store(store).table(Kind.PAIRS, round_index).to_pylist()
    return [_group(list(of_group)) for _, of_group in groupby(rows, lambda row: [row[k] for k in _GROUP_KEY])]


def _group(rows: Sequence[dict[str, Any]]) -> PairGroup:
    sides: dict[str, dict[int, Continuation]] = {}
    for side in ("chosen", "rejected"):
        sides[side] = {row[f"{side}_node"]: _continuation(row, side) for row in rows}
    order = {side: {node_id: at for at, node_id in enumerate(sides[side])} for side in sides}
    return PairGroup(
        problem_id=rows[0]["problem_id"],
        tree_index=rows[0]["tree_index"],
        kind=PairKind(rows[0]["kind"]),
        parent=rows[0]["prefix_node"],
        prefix_text=rows[0]["prefix"],
        prefix_ids=tuple(rows[0]["prefix_token_ids"]),
        chosen=tuple(sides["chosen"].values()),
        rejected=tuple(sides["rejected"].values()),
        pairs=tuple(
            (order["chosen"][row["chosen_node"]], order["rejected"][row["rejected_node"]]) for row in rows
        ),
    )


def _continuation(row: dict[str, Any], side: str) -> Continuation:
    return Continuation(
        node_id=row[f"{side}_node"],
        text=row[side],
        token_ids=tuple(row[f"{side}_token_ids"]),
        q_value=row[f"{side}_q"],
        depth=row[f"{side}_depth"],
    )
