"""Trees and answers in the terminal."""

from __future__ import annotations

from collections.abc import Collection

from rich import tree as rich_tree
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rstar.answers import Answer
from rstar.steps import TAGS, StepKind
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


def draw_search(tree: Tree, new: Collection[int], *, height: int) -> RenderableType:
    """A search that goes on, in at most `height` lines: what it has done, and the steps it found last below their path."""
    answers = sum(node.terminal is TerminalReason.ANSWERED for node in tree.nodes)
    head = Text(
        f"rollout {tree.num_rollouts + 1}: {len(tree.nodes) - 1} steps tried, {answers} answers, {tree.num_tokens:,} tokens",
        "dim",
    )
    drawn = branch = rich_tree.Tree(Text(tree.question, "bold"))
    newest = sorted(new)
    for node_id in tree.path(tree.nodes[newest[0]].parent) if newest else []:
        branch = branch.add(_label(node_id, tree.nodes[node_id]))
    room = max(1, height - 2 - len(tree.path(newest[0])) if newest else 1)
    for node_id in newest[:room]:
        branch.add(_label(node_id, tree.nodes[node_id]))
    return Group(head, drawn)


def draw_answer(found: Answer) -> RenderableType:
    """The answer, the solution that leads to it, what else was answered, and what it cost."""
    cost = found.cost
    spent = Text(
        f"{cost.rollouts} rollouts, {cost.tokens:,} tokens, {cost.executions:,} steps run, {cost.seconds:.1f} s; "
        f"{found.strategy}, stopped by {found.stopped_by}",
        "dim",
    )
    if found.answer is None or found.trajectory is None:
        return Group(Text(f"no answer: {found.reason}", "yellow"), spent)
    parts: list[RenderableType] = []
    tree = found.tree
    for step_id in found.trajectory.node_ids:
        node = tree.nodes[step_id]
        text = node.text
        for tag in TAGS:
            text = text.replace(tag, "")
        if node.kind is StepKind.ANSWER:
            continue
        parts.append(Syntax(text.strip(), "python", theme="ansi_dark", background_color="default"))
        if node.stdout.strip():
            parts.append(Text(node.stdout.strip(), "green"))
    parts += [
        Text(""),
        Text(f"{found.answer}", "bold green"),
        Text(f"{found.confidence:.0%} of the vote", "dim"),
    ]
    if len(found.alternatives) > 1:
        others = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for one in found.alternatives[1:6]:
            score = "" if one.score is None else f"best score {one.score:+.2f}"
            others.add_row(
                one.answer, f"{one.support:.0%}", f"{one.num_candidates} times", score, style="dim"
            )
        parts += [Text("also answered:", "dim"), others]
    return Group(*parts, spent)


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
