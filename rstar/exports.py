"""A tree as a file for other programs: GraphML, Graphviz DOT, JSON. JSON reads back exactly; the others are for looking.

    write_tree(tree, "tree.dot")      # dot -Tsvg tree.dot > tree.svg
    write_tree(tree, "tree.graphml")  # Gephi, yEd, networkx
    write_tree(tree, "tree.json")     # read_tree("tree.json") == tree

In DOT and GraphML a node has a label of a few lines and a colour: green and red for right and wrong answers, grey for
steps that failed, blue (high) to orange (low) for the Q-value of the rest.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from rstar.errors import StoreError
from rstar.protocols import ExecutionVerdict
from rstar.steps import TAGS, StepKind
from rstar.store.schema import first_line
from rstar.store.text import escape, unescape
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree

SCHEMA_VERSION = 1
"""Of the JSON layout."""

LABEL_WIDTH = 36
LABEL_LINES = 3

RIGHT, WRONG, FAILED, UNVISITED = "#8fd19e", "#f1948a", "#d5d8dc", "#ffffff"
LOW, MIDDLE, HIGH = (245, 203, 167), (255, 255, 255), (133, 193, 233)
"""Colours (red, green, blue) of Q = -1, 0, 1."""

# XML 1.0 has no way to write these characters, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_tree(tree: Tree, path: str | PathLike[str]) -> None:
    """Write a tree in the format that the suffix names: .graphml, .dot (or .gv), .json.

    Raises StoreError for another suffix, or a file that cannot be written.
    """
    path = Path(path)
    render = _FORMATS.get(path.suffix.lower())
    if render is None:
        raise StoreError(
            f"{path.name}: no format has the suffix {path.suffix!r}; use one of {', '.join(_FORMATS)}"
        )
    try:
        path.write_text(render(tree), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def read_tree(path: str | PathLike[str]) -> Tree:
    """The tree of a .json file that `write_tree` wrote. Raises StoreError, naming the file, if it is none."""
    path = Path(path)
    try:
        return from_json(path.read_text("utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise StoreError(f"{path} is no tree in JSON: {first_line(error)}") from None


def to_json(tree: Tree) -> str:
    """One JSON object, a line per node. Valid JSON whatever the tree holds: floats that JSON lacks are texts ("nan",
    "inf"), and lone surrogates are escaped as in the store. Children are left out: they follow from the parents."""
    head = {"format": "rstar tree", "schema_version": SCHEMA_VERSION} | {
        field.name: _to_plain(getattr(tree, field.name)) for field in _TREE_FIELDS
    }
    nodes = ",\n".join(
        _dumps({field.name: _to_plain(getattr(node, field.name)) for field in _NODE_FIELDS})
        for node in tree.nodes
    )
    return f'{_dumps(head)[:-1]}, "nodes": [\n{nodes}\n]}}\n'


def from_json(text: str) -> Tree:
    """Inverse of `to_json`. Raises ValueError, TypeError or KeyError for other JSON."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != "rstar tree":
        raise ValueError('it has no "format": "rstar tree"')
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {content['schema_version']}; this installation reads {SCHEMA_VERSION}"
        )
    tree = Tree(
        **{field.name: _from_plain(field.name, content[field.name]) for field in _TREE_FIELDS}, nodes=[]
    )
    for node_id, values in enumerate(content["nodes"]):
        node = Node(**{field.name: _from_plain(field.name, values[field.name]) for field in _NODE_FIELDS})
        if node.parent != NO_PARENT:
            if not 0 <= node.parent < node_id:
                raise ValueError(
                    f"node {node_id}: its parent is {node.parent}; a parent comes before its child"
                )
            tree.nodes[node.parent].children.append(node_id)
        tree.nodes.append(node)
    return tree


def to_dot(tree: Tree) -> str:
    """Graphviz DOT, UTF-8: boxes with labels and colours, a tooltip with the whole step, thick edges for many visits."""
    lines = [
        f"digraph {_quoted(tree.name)} {{",
        '  charset="UTF-8"; node [shape=box, style="filled,rounded", fontname="monospace", fontsize=9];',
    ]
    most = max(tree.root.visit_count, 1)
    for node_id, node in enumerate(tree.nodes):
        text = tree.question if node_id == ROOT else node.text
        style = ', style="filled,rounded,dashed"' if not node.live else ""
        lines.append(
            f"  {node_id} [label={_quoted(label(tree, node_id))}, tooltip={_quoted(text)}, "
            f'fillcolor="{colour(node)}"{style}];'
        )
        if node.parent != NO_PARENT:
            lines.append(f"  {node.parent} -> {node_id} [penwidth={0.5 + 4 * node.visit_count / most:.2f}];")
    return "\n".join([*lines, "}", ""])


def to_graphml(tree: Tree) -> str:
    """GraphML of `Tree.to_networkx`, with `label` and `colour` for each node. Characters that XML cannot hold become
    U+FFFD."""
    import networkx

    graph = tree.to_networkx()
    for node_id, node in enumerate(tree.nodes):
        graph.nodes[node_id]["label"] = label(tree, node_id)
        graph.nodes[node_id]["colour"] = colour(node)
    for attributes in (graph.graph, *(graph.nodes[node_id] for node_id in graph.nodes)):
        for name, value in attributes.items():
            if isinstance(value, str):
                attributes[name] = _NOT_XML.sub("\ufffd", value)
    return "\n".join([*networkx.generate_graphml(graph), ""])


def label(tree: Tree, node_id: int) -> str:
    """A few short lines: the start of the step, then how it ended and its statistics."""
    node = tree.nodes[node_id]
    text = tree.question if node_id == ROOT else node.text
    for tag in TAGS:
        text = text.replace(tag, "")
    shown = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [_short(line) for line in shown[:LABEL_LINES]]
    if not node.live:
        return "\n".join(
            [*lines, f"✗ {node.execution}: {_short(node.error)}" if node.error else f"✗ {node.execution}"]
        )
    if node.answer is not None and node.verified is not None:
        lines.append(f"{'✓' if node.verified else '✗'} {_short(node.answer)}")
    elif node.answer is not None:
        lines.append(f"= {_short(node.answer)}")
    elif node.terminal is not None:
        lines.append(f"✗ {node.terminal.replace('_', ' ')}")
    return "\n".join([*lines, f"N={node.visit_count} Q={node.q_value:+.2f}" if node.visit_count else "N=0"])


def colour(node: Node) -> str:
    """`#rrggbb`: by verdict if there is one, else by Q-value."""
    if not node.live:
        return FAILED
    if node.verified is not None:
        return RIGHT if node.verified else WRONG
    if node.terminal not in (None, TerminalReason.ANSWERED):
        return WRONG
    if not node.visit_count:
        return UNVISITED
    q = node.q_value
    share = min(abs(q), 1.0) if q == q else 0.0
    end = HIGH if q > 0 else LOW
    return "#" + "".join(f"{round(m + (e - m) * share):02x}" for m, e in zip(MIDDLE, end, strict=True))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LABEL_WIDTH else f"{text[: LABEL_WIDTH - 1]}…"


def _quoted(text: str) -> str:
    """A DOT string. Backslashes are doubled, because DOT reads `\\N` and `\\l` in labels as commands; NUL ends a file."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    clean = clean.replace("\\", "\\\\").replace('"', '\\"').replace("\r\n", "\n").replace("\r", "\n")
    return '"' + clean.replace("\n", "\\n") + '"'


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _to_plain(value: Any) -> Any:
    match value:
        case str():
            return escape(value)
        case float() if not float("-inf") < value < float("inf"):
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value


def _from_plain(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _FLOATS:
        return float(value)
    if name in _ENUMS:
        return _ENUMS[name](value)
    if name == "token_ids":
        return tuple(value)
    return unescape(value) if isinstance(value, str) else value


_TREE_FIELDS = [field for field in dataclasses.fields(Tree) if field.name != "nodes"]
_NODE_FIELDS = [field for field in dataclasses.fields(Node) if field.name not in ("children", "in_flight")]
_FLOATS = ("mean_logprob", "initial_value", "value_sum")
_ENUMS: Mapping[str, Callable[[str], Any]] = {
    "kind": StepKind,
    "execution": ExecutionVerdict,
    "terminal": TerminalReason,
}
_FORMATS: Mapping[str, Callable[[Tree], str]] = {
    ".graphml": to_graphml,
    ".dot": to_dot,
    ".gv": to_dot,
    ".json": to_json,
}
