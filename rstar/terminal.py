"""A tree in the terminal."""

from __future__ import annotations

from rich import tree as rich_tree
from rich.console import Group, RenderableType
from rich.text import Text

from rstar.steps import TAGS
from rstar.tree import ROOT, Node, TerminalReason, Tree


def draw_tree(tree: Tree) -> RenderableType:
    """The question and below it every step with its Q-value and visits; green is right, red wrong, dim did not run."""
    solved = "solved" if tree.solved else "not solved"
    head = Text(
        f"{tree.name}: {solved}, {tree.num_rollouts} rollouts, {len(tree.nodes) - 1} nodes, {tree.num_tokens:,} tokens",
        "dim",
    )
    drawn = rich_tree.Tree(Text(tree.question, "bold"))
    branches = {ROOT: drawn}
    for node_id, node in enumerate(tree.nodes):
        if node_id != ROOT:
            branches[node_id] = branches[node.parent].add(_label(node_id, node))
    return Group(head, drawn)


def _label(node_id: int, node: Node) -> Text:
    text = node.text
    for tag in TAGS:
        text = text.replace(tag, "")
    label = Text(f"{node_id} ", "dim")
    if not node.live:
        return label.append(f"{_one_line(text)}  ", "dim").append(
            f"{node.execution}: {node.error}", "red dim"
        )
    style = {True: "green", False: "red", None: ""}[node.verified]
    label.append(_one_line(text), style).append(f"  Q {node.q_value:+.2f} N {node.visit_count}", "cyan")
    if node.multiplicity > 1:
        label.append(f" ×{node.multiplicity}", "dim")
    if node.initial_value is not None:
        label.append(f" V {node.initial_value:+.2f}", "magenta")
    if node.terminal not in (None, TerminalReason.ANSWERED):
        label.append(f"  {node.terminal}: {node.error}", "yellow")
    return label


def _one_line(text: str) -> str:
    return " ⏎ ".join(line for line in text.strip().splitlines() if line.strip())
