"""What the page knows of a tree: plain values, nodes as columns. Token ids stay out; closing tags too, where a step has one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

from rstar.steps import TAGS
from rstar.tree import Node, Tree

DIGITS = 6
"""Decimals of scores and sums."""


def plain_tree(tree: Tree, label: str, node_ids: Iterable[int] | None = None) -> dict[str, Any]:
    """The tree, or of its nodes only these (`whole` says which); `label` heads its pane."""
    ids = list(range(len(tree.nodes)) if node_ids is None else node_ids)
    nodes = [tree.nodes[node_id] for node_id in ids]
    return {
        "label": label, "whole": node_ids is None, "problem_id": tree.problem_id, "question": tree.question,
        "num_rollouts": tree.num_rollouts, "num_tokens": tree.num_tokens, "num_executions": tree.num_executions,
        "nodes": {"id": ids} | {name: [_plain(read(node)) for node in nodes] for name, read in _COLUMNS.items()},
    }  # fmt: skip


def to_json(value: object) -> str:
    """Compact JSON that may stand anywhere in an HTML page and in UTF-8: `<` and lone surrogates are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode().replace("<", "\\u003c")


def _text(node: Node) -> str:
    text = node.text
    if node.kind is not None:
        for tag in TAGS:
            text = text.replace(tag, "")
    return text


def _plain(value: Any) -> Any:
    match value:
        case float():
            return round(value, DIGITS) if math.isfinite(value) else None
        case StrEnum():
            return str(value)
        case _:
            return value


_COLUMNS: Mapping[str, Callable[[Node], Any]] = {
    "parent": lambda node: node.parent,
    "text": _text,
    "kind": lambda node: node.kind,
    "execution": lambda node: node.execution,
    "stdout": lambda node: node.stdout,
    "error": lambda node: node.error,
    "terminal": lambda node: node.terminal,
    "answer": lambda node: node.answer,
    "verified": lambda node: node.verified,
    "initial_value": lambda node: node.initial_value,
    "mean_logprob": lambda node: node.mean_logprob,
    "multiplicity": lambda node: node.multiplicity,
    "rollout": lambda node: node.rollout,
    "visit_count": lambda node: node.visit_count,
    "value_sum": lambda node: node.value_sum,
}
