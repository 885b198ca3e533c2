"""A tree and a few unsolved problems for a person to look at, and how they are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from rounds.charts.tree import tree_drawing
from rounds.page import Block, Code, Figure, Heading, Paragraph, Table
from rounds.report.facts import RunFacts
from rstar.problems import Problem
from rstar.seeds import rng
from rstar.trajectories import Trajectory, trajectories
from rstar.tree import Tree

UNSOLVED_SHOWN = 5
NODES_SHOWN = 40
"""Nodes of a tree that can be read at a glance and still shows something."""


def samples_section(facts: RunFacts) -> list[Block]:
    """A tree of the last round with its best solution, and unsolved problems."""
    blocks: list[Block] = [Heading("A tree to look at")]
    if (tree := facts.tree) is not None:
        best = best_trajectory(tree)
        blocks += [
            Paragraph(
                f"What round {facts.last}'s search tried on one problem, from left to right. Every mark is a step that the policy "
                "proposed; its program was run. Where lines part, several steps were tried."
            ),
            Code(tree.question),
            Figure(
                "tree",
                [tree_drawing(tree, best.node_ids)],
                f"{tree.name}: {tree.num_rollouts} rollouts, {len(tree.nodes) - 1} steps. Colour is the Q-value: the mean of the "
                "answers reached through a step, right +1, wrong -1.",
                wide=True,
            ),
            Paragraph("The best verified solution, as the next policy learns it:"),
            Code(best.text),
        ]
    else:
        blocks.append(Paragraph("No problem was solved."))
    if facts.unsolved:
        blocks += [
            Heading("Unsolved problems, for a person to check", 3),
            Paragraph(
                "A random few without a verified solution. In the paper 19 of 20 such problems had a wrong reference answer: "
                "before you search them longer, check whether the reference is right."
            ),
            Table(
                ["question", "level", "reference"],
                [[problem.question, problem.level, problem.answer] for problem in facts.unsolved],
                wrapped=True,
            ),
        ]
    return blocks


def choose_tree(trees: Sequence[Tree]) -> Tree | None:
    """The solved tree that shows the most: right and wrong answers, and a size that can be read."""
    solved = [tree for tree in trees if tree.solved]
    if not solved:
        return None
    return min(
        solved,
        key=lambda tree: (
            not any(t.verified is False for t in trajectories(tree)), abs(len(tree.nodes) - NODES_SHOWN), tree.name,
        ),
    )  # fmt: skip


def choose_unsolved(problems: Sequence[Problem], solved_ids: set[str], seed: int) -> list[Problem]:
    """A random few of the problems that have no verified solution."""
    unsolved = sorted((p for p in problems if p.id not in solved_ids), key=lambda p: p.id)
    chance = rng(seed, "report", "unsolved")
    return chance.sample(unsolved, min(UNSOLVED_SHOWN, len(unsolved)))


def best_trajectory(tree: Tree) -> Trajectory:
    """The verified one with the highest mean Q-value."""
    return max((t for t in trajectories(tree) if t.verified), key=lambda t: t.mean_q)
