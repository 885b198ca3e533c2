"""A tree as rows and back, exactly: every field of every node, floats bit by bit, None told apart from empty text.

Not stored, because it follows from the rest: a node's children (the nodes that name it as parent, in order of id).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from rstar.errors import StoreError
from rstar.protocols import ExecutionVerdict
from rstar.steps import StepKind
from rstar.store.schema import Kind, arrow_schema, first_line
from rstar.store.text import escape, unescape
from rstar.trajectories import Trajectory, trajectories
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree

if TYPE_CHECKING:
    import pyarrow as pa

TREE_KINDS = (Kind.NODES, Kind.TRAJECTORIES, Kind.TREES)
"""The kinds that a tree becomes, in the order in which their files are written: a tree is there once its `trees` row is."""

E = TypeVar("E", bound=StrEnum)


class Outcome(StrEnum):
    """What a tree's answers came to."""

    SOLVED = "solved"
    """An answer was verified."""
    UNSOLVED = "unsolved"
    """No answer is right, or there is none."""
    UNJUDGED = "unjudged"
    """There are answers, and nobody knows the truth of any."""


def outcome_of(tree: Tree) -> Outcome:
    if tree.solved:
        return Outcome.SOLVED
    judgements = [n.verified for n in tree.nodes if n.terminal is TerminalReason.ANSWERED]
    return Outcome.UNJUDGED if judgements and all(v is None for v in judgements) else Outcome.UNSOLVED


@dataclass(frozen=True, slots=True)
class TreeRows:
    """One tree as Arrow batches, one per kind."""

    nodes: pa.RecordBatch
    trajectories: pa.RecordBatch
    trees: pa.RecordBatch

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """In the order of `TREE_KINDS`."""
        return iter((self.nodes, self.trajectories, self.trees))


def to_rows(
    tree: Tree, *, version: int, level: str, source: str, settings_hash: str, seconds: float
) -> TreeRows:
    """Raises StoreError, naming tree and node, for a tree that is not at rest or cannot be read back as it is."""
    check_storable(tree)
    found = trajectories(tree)
    nodes = tree.nodes
    try:
        return TreeRows(
            _batch(Kind.NODES, tree, version, len(nodes), {
                "node_id": range(len(nodes)),
                "parent": [n.parent for n in nodes],
                "depth": [n.depth for n in nodes],
                "rollout": [n.rollout for n in nodes],
                "multiplicity": [n.multiplicity for n in nodes],
                "kind": [n.kind for n in nodes],
                "text": [escape(n.text) for n in nodes],
                "token_ids": [n.token_ids for n in nodes],
                "mean_logprob": [n.mean_logprob for n in nodes],
                "execution": [n.execution for n in nodes],
                "stdout": [escape(n.stdout) for n in nodes],
                "error": [escape(n.error) for n in nodes],
                "terminal": [n.terminal for n in nodes],
                "answer": [None if n.answer is None else escape(n.answer) for n in nodes],
                "verified": [n.verified for n in nodes],
                "initial_value": [n.initial_value for n in nodes],
                "visit_count": [n.visit_count for n in nodes],
                "value_sum": [n.value_sum for n in nodes],
                "closed": [n.closed for n in nodes],
            }),
            _batch(Kind.TRAJECTORIES, tree, version, len(found), {
                "node_ids": [t.node_ids for t in found],
                "mean_q": [t.mean_q for t in found],
                "answer": [escape(t.answer) for t in found],
                "verified": [t.verified for t in found],
                "text": [escape(t.text) for t in found],
            }),
            _batch(Kind.TREES, tree, version, 1, {
                "seed": [tree.seed], "question": [escape(tree.question)], "level": [escape(level)],
                "source": [escape(source)], "settings_hash": [settings_hash], "num_rollouts": [tree.num_rollouts],
                "num_tokens": [tree.num_tokens], "num_executions": [tree.num_executions], "num_nodes": [len(nodes)],
                "num_trajectories": [len(found)], "outcome": [outcome_of(tree)], "seconds": [seconds],
            }),
        )  # fmt: skip
    except (ValueError, OverflowError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"tree {tree.name} has a value that no column can hold: {first_line(error)}"
        ) from None


def check_storable(tree: Tree) -> None:
    """Raise StoreError unless the tree is at rest and its links can be told from its parents alone."""
    children: list[list[int]] = [[] for _ in tree.nodes]
    for node_id, node in enumerate(tree.nodes):
        where = f"tree {tree.name} node {node_id}"
        if node.in_flight:
            raise StoreError(
                f"{where}: a rollout is still in flight; append a tree when its search has ended"
            )
        if node_id == ROOT:
            if node.parent != NO_PARENT:
                raise StoreError(f"{where}: the root's parent is {node.parent}; it must be {NO_PARENT}")
        elif not 0 <= node.parent < node_id:
            raise StoreError(f"{where}: its parent is {node.parent}; a parent comes before its child")
        else:
            children[node.parent].append(node_id)
            if node.parent != ROOT and tree.nodes[node.parent].kind is None:
                raise StoreError(f"{where}: its parent does not parse, so nothing can follow it")
        if node.terminal is TerminalReason.ANSWERED and (
            node.answer is None or node_id == ROOT or node.kind is None
        ):
            raise StoreError(f"{where}: it ends in an answer, but is no step with an answer")
    for node_id, node in enumerate(tree.nodes):
        if node.children != children[node_id]:
            raise StoreError(
                f"tree {tree.name} node {node_id}: its children are {node.children}; the nodes that name it as parent "
                f"are {children[node_id]}"
            )
    if not tree.nodes:
        raise StoreError(f"tree {tree.name} has no root")


def _batch(
    kind: Kind, tree: Tree, version: int, num_rows: int, columns: dict[str, Sequence[Any]]
) -> pa.RecordBatch:
    import pyarrow as pa

    key = {"problem_id": escape(tree.problem_id), "tree_index": tree.tree_index, "version": version}
    schema = arrow_schema(kind)
    arrays: list[pa.Array[Any]] = []
    for field in schema:
        if field.name in key:
            arrays.append(pa.array([key[field.name]] * num_rows, field.type))
        elif isinstance(field.type, pa.ListType):
            arrays.append(_lists(columns[field.name], field.type))
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _lists(values: Sequence[Sequence[int]], type_: pa.ListType[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    offsets = pa.array(accumulate(map(len, values), initial=0), pa.int32())
    flat = pa.array(list(chain.from_iterable(values)), type_.value_type)
    return pa.ListArray.from_arrays(offsets, flat, type=type_)


_KINDS = {kind.value: kind for kind in StepKind}
_EXECUTIONS = {verdict.value: verdict for verdict in ExecutionVerdict}
_TERMINALS = {reason.value: reason for reason in TerminalReason}


def from_rows(nodes: pa.Table, trees_row: dict[str, Any]) -> Tree:
    """The tree of its `nodes` rows (all of them, in order) and its `trees` row."""
    column = {name: nodes.column(name) for name in nodes.column_names}

    def plain(name: str) -> list[Any]:
        return column[name].to_pylist()

    def texts(name: str) -> list[Any]:
        return [text if text is None else unescape(text) for text in plain(name)]

    rows = zip(
        plain("parent"), plain("depth"), texts("text"), _members(plain("kind"), _KINDS), _tuples(column["token_ids"]),
        plain("mean_logprob"), plain("multiplicity"), plain("rollout"), _members(plain("execution"), _EXECUTIONS),
        texts("stdout"), texts("error"), _members(plain("terminal"), _TERMINALS), texts("answer"), plain("verified"),
        plain("initial_value"), plain("visit_count"), plain("value_sum"), plain("closed"), strict=True,
    )  # fmt: skip
    tree = Tree(
        problem_id=unescape(trees_row["problem_id"]), question=unescape(trees_row["question"]),
        seed=trees_row["seed"], tree_index=trees_row["tree_index"], num_rollouts=trees_row["num_rollouts"],
        num_tokens=trees_row["num_tokens"], num_executions=trees_row["num_executions"], nodes=[],
    )  # fmt: skip
    for (
        parent, depth, text, kind, token_ids, mean_logprob, multiplicity, rollout, execution, stdout, error, terminal,
        answer, verified, initial_value, visit_count, value_sum, closed,
    ) in rows:  # fmt: skip
        if parent != NO_PARENT:
            tree.nodes[parent].children.append(len(tree.nodes))
        tree.nodes.append(Node(
            parent=parent, depth=depth, text=text, kind=kind, token_ids=token_ids, mean_logprob=mean_logprob,
            multiplicity=multiplicity, rollout=rollout, execution=execution, stdout=stdout, error=error,
            terminal=terminal, answer=answer, verified=verified, initial_value=initial_value,
            visit_count=visit_count, value_sum=value_sum, closed=closed,
        ))  # fmt: skip
    return tree


def _members(values: list[str | None], members: dict[str, E]) -> list[E | None]:
    return [None if value is None else members[value] for value in values]


def _tuples(column: pa.ChunkedArray[Any]) -> list[tuple[int, ...]]:
    tuples: list[tuple[int, ...]] = []
    chunks: list[Any] = column.chunks
    for chunk in chunks:
        offsets = chunk.offsets.to_pylist()
        flat = chunk.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]].tolist()
        tuples += [tuple(flat[start - offsets[0] : end - offsets[0]]) for start, end in pairwise(offsets)]
    return tuples


def trajectory_of(row: dict[str, Any]) -> Trajectory:
    """The trajectory of its row."""
    return Trajectory(
        problem_id=unescape(row["problem_id"]), tree_index=row["tree_index"], node_ids=tuple(row["node_ids"]),
        mean_q=row["mean_q"], answer=unescape(row["answer"]), verified=row["verified"], text=unescape(row["text"]),
    )  # fmt: skip
