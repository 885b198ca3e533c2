"""Supervised examples as rows of a store's `sft` tables, and back, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policy.sft_sets import SFTExample
from rstar.steps import boxed
from rstar.store import Kind, Store
from rstar.store.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(examples: Sequence[SFTExample]) -> pa.Table:
    """One row per example, in order."""
    import pyarrow as pa

    schema = arrow_schema(Kind.SFT)
    return pa.table(
        {name: [getattr(example, name) for example in examples] for name in schema.names}, schema=schema
    )


def read_examples(store: Path, round_index: int) -> list[SFTExample]:
    """The examples of a round, in the order in which they were written."""
    return [
        SFTExample(
            **{key: row[key] for key in ("problem_id", "tree_index", "text", "mean_q")},
            token_ids=tuple(row["token_ids"]),
            loss_mask=tuple(row["loss_mask"]),
            answer=boxed(row["text"]) or "",
        )
        for row in Store(store).table(Kind.SFT, round_index).to_pylist()
    ]
