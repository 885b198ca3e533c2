"""From a round's trees to what the baselines of the paper's table 8 learn from: steps and trajectories with a value each.

A PQM takes Q-values directly as labels (rStar-Math, section 3.3, of the methods before it). So it is given those of all
steps, not only of the pairs': to choose steps far apart in Q is the preference model's own remedy for their noise, and a
PQM that had it, or that never saw a middling step, would be neither the published baseline nor a fair one. [ours]
An ORM likewise learns from all trajectories that were judged. Both come from the trees that the pairs are drawn from,
those without pairs included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache

from ppm.config import Objective, PairConfig
from ppm.continuations import Prefixes, retokenized, step, trajectory
from ppm.groups import Continuation, LabelledGroup, LabelledSet
from rstar.prompts import Encode, PromptFormat, RenderChat, render_prompt
from rstar.tree import ROOT, Node, TerminalReason, Tree

_SCORED_IN_SEARCH = (None, TerminalReason.ANSWERED, TerminalReason.CODE_ERRORS)
"""How a step may end: no search asks what one is worth that is too deep, too long, or does not parse."""


def labelled_set(
    trees: Iterable[Tree],
    *,
    objective: Objective,
    config: PairConfig,
    format: PromptFormat,
    encode: Encode,
    max_output_chars: int,
    render_chat: RenderChat | None = None,
) -> LabelledSet:
    """What a baseline, `Objective.PQM` or `ORM`, learns from `trees`.

    PQM: of every prefix the steps that a rollout went through, dead ends included, with their Q-values. ORM: of every
    tree the judged trajectories, with +1 or -1. `encode` and `max_output_chars` are as in `pairs.pair_set`; of `config`
    only `max_tokens` and `retokenize` matter here.
    """
    assert objective is not Objective.PPM, "a preference model learns from pairs"
    cached = lru_cache(maxsize=4096)(lambda text: tuple(encode(text)))
    groups: list[LabelledGroup] = []
    num_too_long = 0
    for tree in trees:
        if config.retokenize:
            tree = retokenized(tree, cached)
        prompt = render_prompt(format, tree.question, render_chat)
        prefixes = Prefixes(tree, prompt, cached, max_output_chars)
        found = _steps(tree) if objective is Objective.PQM else {ROOT: _judged(tree, prefixes)}
        for parent, labelled in found.items():
            kept = tuple(c for c in labelled if len(c.token_ids) <= config.max_tokens)
            num_too_long += len(labelled) - len(kept)
            if kept:
                groups.append(
                    LabelledGroup(
                        problem_id=tree.problem_id,
                        tree_index=tree.tree_index,
                        parent=parent,
                        prefix_ids=prefixes[parent].token_ids,
                        continuations=kept,
                    )
                )
    return LabelledSet(groups=tuple(groups), num_too_long=num_too_long)


def _steps(tree: Tree) -> dict[int, list[Continuation]]:
    """Labelled steps by their parent."""
    found = {
        parent: [step(tree, child) for child in node.children if _was_tried(tree.nodes[child])]
        for parent, node in enumerate(tree.nodes)
    }
    return {parent: steps for parent, steps in found.items() if steps}


def _was_tried(node: Node) -> bool:
    """A rollout went through it: more than the visit that a value model gives, whose score is no label."""
    return node.terminal in _SCORED_IN_SEARCH and node.visit_count > node.scored


def _judged(tree: Tree, prefixes: Prefixes) -> list[Continuation]:
    return [
        dataclasses.replace(trajectory(tree, node_id, prefixes), q_value=1.0 if node.verified else -1.0)
        for node_id, node in enumerate(tree.nodes)
        if node.terminal is TerminalReason.ANSWERED and node.verified is not None
    ]
