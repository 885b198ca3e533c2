"""Root-to-answer views of a tree: what training sets are chosen from and what a user is shown."""

from __future__ import annotations

from dataclasses import dataclass

from rstar.prompts import Encode, Prefix, start
from rstar.steps import Solution, StepKind, render_solution
from rstar.tree import Node, TerminalReason, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A path from the root to an answer. Several candidates may have sampled it (`multiplicity` of its answer)."""

    problem_id: str
    tree_index: int
    node_ids: tuple[int, ...]
    """From the root's child to the answer."""
    mean_q: float
    """Mean Q-value of these nodes, in [-1, 1]: the paper's measure of a trajectory (section 3.4)."""
    answer: str
    verified: bool | None
    text: str
    """The solution in the step format, output block included."""


def trajectories(tree: Tree) -> list[Trajectory]:
    """Every answered path of a tree, in the order its answers were found."""
    return [
        _trajectory(tree, node_id)
        for node_id in tree.terminal_nodes()
        if tree.nodes[node_id].terminal is TerminalReason.ANSWERED
    ]


def _trajectory(tree: Tree, answer_id: int) -> Trajectory:
    path = tree.path(answer_id)
    answer = tree.nodes[answer_id]
    assert answer.answer is not None, "an answered node has an answer"
    return Trajectory(
        problem_id=tree.problem_id,
        tree_index=tree.tree_index,
        node_ids=tuple(path),
        mean_q=sum(tree.nodes[node_id].q_value for node_id in path) / len(path),
        answer=answer.answer,
        verified=answer.verified,
        text=render_solution(Solution(tuple(tree.steps(answer_id)), tree.program_output(answer_id))),
    )


def prefix_of(tree: Tree, node_id: int, *, prompt: str, encode: Encode, max_output_chars: int) -> Prefix:
    """What stands before the step after `node_id`, token for token as the search showed it to the policy."""
    prefix = start(prompt, encode)
    for step_id in tree.path(node_id):
        node = tree.nodes[step_id]
        stdout = tree.program_output(step_id) if node.kind is StepKind.FINAL_CODE else ""
        prefix = extend_prefix(prefix, node, stdout, encode, max_output_chars)
    return prefix


def extend_prefix(
    prefix: Prefix, node: Node, program_output: str, encode: Encode, max_output_chars: int
) -> Prefix:
    """The prefix of a node's children, given the prefix of the node and what the whole program has printed by then."""
    assert node.kind is not None, "a step that does not parse has no continuation"
    shown = shown_output(program_output, max_output_chars) if node.kind is StepKind.FINAL_CODE else ""
    return prefix.then_step(node.text, node.token_ids, node.kind, shown, encode)


def shown_output(stdout: str, max_chars: int) -> str:
    """A program's output as the policy sees it: whole, or its first `max_chars` characters and how much is gone."""
    if len(stdout) <= max_chars:
        return stdout
    return f"{stdout[:max_chars]}... [{len(stdout) - max_chars} more characters]"
