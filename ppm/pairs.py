"""From a round's trees to preference pairs: a pure function (rStar-Math, section 3.3).

A *step pair* is two siblings: the chosen one leads to a correct answer and has a high Q-value, the rejected one leads to
a wrong answer and has a low one. A *final pair* is two whole trajectories of one tree, a correct and a wrong one, which
need share nothing but the prompt. The pairs of one prefix stay together in a `PairGroup`: the loss averages over them.

Ids are those of the search: the prefix as it was shown to the policy, the steps as the policy sampled them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ppm.config import PairConfig
from ppm.continuations import Prefixes, retokenized, step, trajectory
from ppm.edit_distance import differ_by
from ppm.groups import MARGIN_BIN, Continuation, DropReason, PairGroup, PairKind, PairReport, PairSet
from rstar.prompts import Encode, Prefix, PromptFormat, RenderChat, render_prompt
from rstar.tree import ROOT, Node, TerminalReason, Tree

_CORRECT, _WRONG = 1, 2
_BOTH = _CORRECT | _WRONG


def pair_set(
    trees: Iterable[Tree],
    *,
    config: PairConfig,
    format: PromptFormat,
    encode: Encode,
    max_output_chars: int,
    render_chat: RenderChat | None = None,
) -> PairSet:
    """The pairs of `trees`. `encode` is the tokenizer of the preference model and `max_output_chars` the search's, so
    that ids equal those of the search."""
    cached = lru_cache(maxsize=4096)(lambda text: tuple(encode(text)))
    report = PairReport()
    groups = [
        group
        for tree in trees
        for group in tree_groups(
            tree,
            config=config,
            prompt=render_prompt(format, tree.question, render_chat),
            encode=cached,
            max_output_chars=max_output_chars,
            report=report,
        )
    ]
    return PairSet(groups=tuple(groups), report=report)


def tree_groups(
    tree: Tree, *, config: PairConfig, prompt: str, encode: Encode, max_output_chars: int, report: PairReport
) -> list[PairGroup]:
    """The groups of one tree; counts go into `report`."""
    report.num_trees += 1
    report.num_nodes += len(tree.nodes)
    outcomes = _outcomes(tree)
    if outcomes[ROOT] != _BOTH:
        one_sided = {0: DropReason.NO_ANSWER, _CORRECT: DropReason.ALL_CORRECT, _WRONG: DropReason.ALL_WRONG}
        report.dropped[one_sided[outcomes[ROOT]]] += 1
        return []
    if config.retokenize:
        tree = retokenized(tree, encode)
    prefixes = Prefixes(tree, prompt, encode, max_output_chars)
    groups = []
    for parent, outcome in enumerate(outcomes):
        if outcome != _BOTH:
            continue
        chosen_ids, rejected_ids = _sides(tree.nodes, outcomes, parent, config)
        if not rejected_ids:
            report.dropped[DropReason.ONE_CHILD] += 1
            continue
        chosen, rejected = ([step(tree, i) for i in side] for side in (chosen_ids, rejected_ids))
        kept = _kept_step_pairs(chosen, rejected, config, report)
        if kept:
            prefix = prefixes[parent]
            groups.append(_group(tree, PairKind.STEP, parent, prefix, chosen, rejected, kept))
            report.depths[chosen[0].depth] += len(kept)
    groups += _final_group(tree, prefixes, config, report)
    for group in groups:
        report.num_groups[group.kind] += 1
        report.num_pairs[group.kind] += len(group.pairs)
    return groups


def _outcomes(tree: Tree) -> list[int]:
    """For each node, whether a correct and whether a wrong answer is at or below it. Children come after their parents,
    so one pass from the end sees each subtree whole."""
    nodes = tree.nodes
    outcomes = [0] * len(nodes)
    for node_id in range(len(nodes) - 1, ROOT, -1):
        node = nodes[node_id]
        if node.terminal is TerminalReason.ANSWERED and node.verified is not None:
            outcomes[node_id] = _CORRECT if node.verified else _WRONG
        if outcomes[node_id]:
            outcomes[node.parent] |= outcomes[node_id]
    return outcomes


def _sides(
    nodes: Sequence[Node], outcomes: Sequence[int], parent: int, config: PairConfig
) -> tuple[list[int], list[int]]:
    """The children that are chosen and rejected, best and worst first; ties go to the one found first.

    A child with correct and wrong descendants may stand on either side, never on both: the sides take turns. [ours]
    """
    children = [child for child in nodes[parent].children if outcomes[child]]
    q = {child: nodes[child].q_value for child in children}
    good = sorted((child for child in children if outcomes[child] & _CORRECT), key=lambda child: -q[child])
    bad = sorted(
        (child for child in children if outcomes[child] & _WRONG),
        key=lambda child: (outcomes[child] & _CORRECT, q[child]),
    )
    chosen: list[int] = []
    rejected: list[int] = []

    def take(side: list[int], order: list[int], limit: int) -> bool:
        free = (child for child in order if child not in chosen and child not in rejected)
        if len(side) < limit and (child := next(free, None)) is not None:
            side.append(child)
            return True
        return False

    while take(chosen, good, config.max_chosen) | take(rejected, bad, config.max_rejected):
        pass
    if len(chosen) == 1:
        while take(rejected, bad, config.max_widened):
            pass
    elif len(rejected) == 1:
        while take(chosen, good, config.max_widened):
            pass
    return chosen, rejected


def _kept_step_pairs(
    chosen: Sequence[Continuation], rejected: Sequence[Continuation], config: PairConfig, report: PairReport
) -> list[tuple[int, int]]:
    kept = []
    for at, better in enumerate(chosen):
        for other, worse in enumerate(rejected):
            margin = better.q_value - worse.q_value
            report.margins[MARGIN_BIN * math.floor(margin / MARGIN_BIN)] += 1
            if margin < config.min_q_margin:
                report.dropped[DropReason.MARGIN] += 1
            elif not differ_by(better.text, worse.text, config.min_edit_distance):
                report.dropped[DropReason.EDIT_DISTANCE] += 1
            elif max(len(better.token_ids), len(worse.token_ids)) > config.max_tokens:
                report.dropped[DropReason.TOO_LONG] += 1
            else:
                kept.append((at, other))
    return kept


def _final_group(tree: Tree, prefixes: Prefixes, config: PairConfig, report: PairReport) -> list[PairGroup]:
    """The correct trajectories with the highest mean Q against the wrong ones with the lowest. Q margin and edit distance
    are for steps: here the judge has said which is better, and one character may be all the difference. [ours]"""
    correct, wrong = _ranked_answers(tree)
    chosen = [trajectory(tree, node_id, prefixes) for node_id in correct[: config.num_final]]
    rejected = [trajectory(tree, node_id, prefixes) for node_id in wrong[: config.num_final]]
    kept = []
    for at, better in enumerate(chosen):
        for other, worse in enumerate(rejected):
            if max(len(better.token_ids), len(worse.token_ids)) > config.max_tokens:
                report.dropped[DropReason.TOO_LONG] += 1
            else:
                kept.append((at, other))
    if not kept:
        return []
    return [_group(tree, PairKind.FINAL, ROOT, prefixes[ROOT], chosen, rejected, kept)]


def _ranked_answers(tree: Tree) -> tuple[list[int], list[int]]:
    """Correct answers by falling, wrong ones by rising mean Q of their trajectories; ties go to the one found first."""
    q_sums = [0.0] * len(tree.nodes)
    correct: list[tuple[float, int]] = []
    wrong: list[tuple[float, int]] = []
    for node_id, node in enumerate(tree.nodes):
        if node_id == ROOT:
            continue
        q_sums[node_id] = q_sums[node.parent] + node.q_value
        if node.terminal is TerminalReason.ANSWERED and node.verified is not None:
            (correct if node.verified else wrong).append((q_sums[node_id] / node.depth, node_id))
    return (
        [node_id for _, node_id in sorted(correct, key=lambda found: (-found[0], found[1]))],
        [node_id for _, node_id in sorted(wrong)],
    )


def _group(
    tree: Tree, kind: PairKind, parent: int, prefix: Prefix, chosen: Sequence[Continuation],
    rejected: Sequence[Continuation], kept: Sequence[tuple[int, int]],
) -> PairGroup:  # fmt: skip
    """A group of the kept pairs; continuations that are in none of them fall away."""
    rows = list(dict.fromkeys(at for at, _ in kept))
    columns = list(dict.fromkeys(other for _, other in kept))
    return PairGroup(
        problem_id=tree.problem_id,
        tree_index=tree.tree_index,
        kind=kind,
        parent=parent,
        prefix_text=prefix.text,
        prefix_ids=prefix.token_ids,
        chosen=tuple(chosen[at] for at in rows),
        rejected=tuple(rejected[other] for other in columns),
        pairs=tuple((rows.index(at), columns.index(other)) for at, other in kept),
    )
