"""The columns of every kind of row in a store, their types, meanings and Parquet encodings.

`docs/store.md` shows these tables; a test keeps the two equal. A change here needs a new `SCHEMA_VERSION`.
Encodings are measured (`benchmarks/bench_store.py`): token ids stay plain, because zstd finds a sibling's run of equal
ids only where ids are whole bytes, which dictionary indices are not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rstar.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Of the files of a store: this version is read and written, a newer one is refused."""


class Kind(StrEnum):
    """What a row is; each kind is a dataset of its own, a folder of this name."""

    NODES = "nodes"
    """A node of a tree."""
    TREES = "trees"
    """A tree."""
    TRAJECTORIES = "trajectories"
    """An answered path of a tree."""
    PAIRS = "pairs"
    """A preference pair."""
    SFT = "sft"
    """A supervised example."""


class Encoding(StrEnum):
    """How Parquet lays a column out before zstd."""

    DICTIONARY = "dictionary"
    PLAIN = "PLAIN"
    DELTA = "DELTA_BINARY_PACKED"
    LENGTHS_FIRST = "DELTA_LENGTH_BYTE_ARRAY"
    BYTE_SPLIT = "BYTE_STREAM_SPLIT"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `type` in the words of Arrow."""

    name: str
    type: str
    meaning: str
    encoding: Encoding = Encoding.DICTIONARY
    nullable: bool = False


_TREE_KEY = (
    Column("problem_id", "string", "the problem"),
    Column("tree_index", "int32", "tells apart the trees of one problem"),
    Column("version", "int32", "0 for a tree's first state; a reopened tree is appended with the next, and the highest counts"),
)  # fmt: skip

COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    Kind.NODES: (
        *_TREE_KEY,
        Column("node_id", "int32", "0 is the root (the question)", Encoding.DELTA),
        Column("parent", "int32", "node id of the parent; -1 for the root", Encoding.PLAIN),
        Column("depth", "int32", "edges from the root"),
        Column("rollout", "int32", "index of the rollout that added the node"),
        Column("multiplicity", "int32", "how many candidates of the expansion were this step"),
        Column("kind", "string", "code, final_code or answer; null for the root and for a step that does not parse", nullable=True),
        Column("text", "string", "the step as sampled, closing tag included", Encoding.LENGTHS_FIRST),
        Column("token_ids", "list<uint32>", "the ids that the policy sampled", Encoding.PLAIN),
        Column("mean_logprob", "float64", "mean natural log-probability of these tokens", Encoding.BYTE_SPLIT),
        Column("execution", "string", "ok, error, timeout, memory, output_limit, blocked or killed"),
        Column("stdout", "string", "what this step's code printed"),
        Column("error", "string", "why it failed or does not parse; empty if it did not"),
        Column("terminal", "string", "why nothing follows: answered, code_errors, max_depth, unparsable or context_overflow", nullable=True),
        Column("answer", "string", "the final answer", nullable=True),
        Column("verified", "bool", "the answer was judged equal to the reference; null if nobody judged", Encoding.PLAIN, nullable=True),
        Column("initial_value", "float64", "what the value model said of the prefix ending here, in [-1, 1]", Encoding.BYTE_SPLIT, nullable=True),
        Column("visit_count", "int32", "N"),
        Column("value_sum", "float64", "W; the Q-value is W / N, and 0 where N is 0", Encoding.BYTE_SPLIT),
        Column("closed", "bool", "no rollout can find anything new below", Encoding.PLAIN),
    ),
    Kind.TREES: (
        *_TREE_KEY,
        Column("seed", "int64", "seed of the tree"),
        Column("question", "string", "the question", Encoding.LENGTHS_FIRST),
        Column("level", "string", "level of the problem; empty if not given"),
        Column("source", "string", "where the problem is from; empty if not given"),
        Column("settings_hash", "string", "names the writer's settings, which the file's metadata holds"),
        Column("num_rollouts", "int32", "rollouts finished"),
        Column("num_tokens", "int64", "tokens sampled, duplicates included"),
        Column("num_executions", "int64", "steps executed"),
        Column("num_nodes", "int32", "rows in `nodes`, the root included"),
        Column("num_trajectories", "int32", "rows in `trajectories`"),
        Column("outcome", "string", "solved (an answer was verified), unsolved, or unjudged (answers, and nobody judged one)"),
        Column("seconds", "float64", "wall time of the search; of the last opening, for a reopened tree", Encoding.PLAIN),
    ),
    Kind.TRAJECTORIES: (
        *_TREE_KEY,
        Column("node_ids", "list<int32>", "from the root's child to the answer", Encoding.PLAIN),
        Column("mean_q", "float64", "mean Q-value of these nodes", Encoding.BYTE_SPLIT),
        Column("answer", "string", "the final answer"),
        Column("verified", "bool", "as in `nodes`", Encoding.PLAIN, nullable=True),
        Column("text", "string", "the solution in the step format, output block included", Encoding.LENGTHS_FIRST),
    ),
    Kind.PAIRS: (
        Column("problem_id", "string", "the problem"),
        Column("tree_index", "int32", "the tree; null for a pair that is from none", nullable=True),
        Column("kind", "string", "step (two steps after one prefix) or final (two whole trajectories after the prompt)"),
        Column("prefix_node", "int32", "node both continuations follow; the root for a final pair", nullable=True),
        Column("chosen_node", "int32", "node of the better step, or the better answer", nullable=True),
        Column("rejected_node", "int32", "node of the worse step, or the worse answer", nullable=True),
        Column("chosen_depth", "int32", "depth of the chosen node", nullable=True),
        Column("rejected_depth", "int32", "depth of the rejected node", nullable=True),
        Column("prefix", "string", "text that both steps follow, prompt included", Encoding.LENGTHS_FIRST),
        Column("chosen", "string", "the better continuation", Encoding.LENGTHS_FIRST),
        Column("rejected", "string", "the worse continuation", Encoding.LENGTHS_FIRST),
        Column("prefix_token_ids", "list<uint32>", "token ids of the prefix", Encoding.PLAIN),
        Column("chosen_token_ids", "list<uint32>", "token ids of the better continuation", Encoding.PLAIN),
        Column("rejected_token_ids", "list<uint32>", "token ids of the worse continuation", Encoding.PLAIN),
        Column("chosen_q", "float64", "Q-value of the better, in [-1, 1]", Encoding.BYTE_SPLIT),
        Column("rejected_q", "float64", "Q-value of the worse, in [-1, 1]", Encoding.BYTE_SPLIT),
    ),
    Kind.SFT: (
        Column("problem_id", "string", "the problem"),
        Column("tree_index", "int32", "the tree; null for an example that is from none", nullable=True),
        Column("text", "string", "prompt and solution as the model reads them", Encoding.LENGTHS_FIRST),
        Column("token_ids", "list<uint32>", "token ids of the text", Encoding.PLAIN),
        Column("loss_mask", "list<uint8>", "1 where the policy wrote the token, 0 elsewhere; as long as token_ids", Encoding.PLAIN),
        Column("mean_q", "float64", "of the trajectory; null for an example that is from no tree", Encoding.BYTE_SPLIT, nullable=True),
    ),
}  # fmt: skip


@functools.cache
def arrow_schema(kind: Kind) -> pa.Schema:
    """The Arrow schema of a kind's files, without metadata. The `round` is in the path, not in the file."""
    import pyarrow as pa

    def list_of(element: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("element", element, nullable=False))

    types: dict[str, pa.DataType] = {
        "string": pa.string(), "bool": pa.bool_(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64(),
        "list<int32>": list_of(pa.int32()), "list<uint32>": list_of(pa.uint32()), "list<uint8>": list_of(pa.uint8()),
    }  # fmt: skip
    return pa.schema([pa.field(c.name, types[c.type], nullable=c.nullable) for c in COLUMNS[kind]])


def dictionary_columns(kind: Kind) -> list[str]:
    return [_parquet_path(c) for c in COLUMNS[kind] if c.encoding is Encoding.DICTIONARY]


def column_encodings(kind: Kind) -> dict[str, str]:
    """Parquet encoding by column path, of the columns that are not dictionary-encoded."""
    return {_parquet_path(c): str(c.encoding) for c in COLUMNS[kind] if c.encoding is not Encoding.DICTIONARY}


def _parquet_path(column: Column) -> str:
    return f"{column.name}.list.element" if column.type.startswith("list<") else column.name


def conform(kind: Kind, table: pa.Table) -> pa.Table:
    """`table` with exactly the columns of `kind`, in order and cast; a nullable one may be missing.

    Raises StoreError for a missing or unknown column, a null where none may be, or a value that does not fit its type.
    """
    import pyarrow as pa

    schema = arrow_schema(kind)
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown:
        raise StoreError(
            f"{kind} rows have no column {unknown[0]!r}; their columns are {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise StoreError(f"{kind} rows need a column {field.name!r} of type {field.type}")
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
            continue
        column = table.column(field.name)
        if column.null_count and not field.nullable:
            raise StoreError(
                f"{kind} column {field.name!r} holds a null; only {field.type} values may be there"
            )
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StoreError(
                f"{kind} column {field.name!r} must be {field.type}: {first_line(error)}"
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def column_table(kind: Kind) -> str:
    """The kind's columns as a Markdown table."""
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for column in COLUMNS[kind]:
        lines.append(
            f"| `{column.name}` | {column.type} | {'yes' if column.nullable else ''} | {column.meaning} |"
        )
    return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """The first line of an error's message: ours have one."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
