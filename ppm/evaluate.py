"""How often a model puts the two continuations of a pair in the right order, and its scores of whole trajectories."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

import torch

from ppm.batches import collate
from ppm.config import Sharing
from ppm.groups import PairGroup, PairKind
from ppm.model import ProcessPreferenceModel
from rstar.prompts import Encode, PromptFormat, RenderChat, render_prompt
from rstar.protocols import ScoreRequest, ValueBackend
from rstar.training.trainer import shared_out
from rstar.trajectories import prefix_of
from rstar.tree import TerminalReason, Tree

MODEL_INPUTS = ("input_ids", "position_ids", "subtree_ends", "read_at")
GROUPS_AT_ONCE = 32
TREES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAccuracy:
    """Shares of pairs in the right order, in [0, 1]; equal scores count half. A kind or depth without pairs is absent."""

    num_pairs: int
    overall: float
    by_kind: dict[PairKind, float]
    by_depth: dict[int, float]
    """Step pairs, by depth of their steps."""
    pairs_by_depth: dict[int, int]
    """How many these are."""


def score_groups(
    model: ProcessPreferenceModel, groups: Sequence[PairGroup], *, sharing: Sharing, max_length: int
) -> list[tuple[list[float], list[float]]]:
    """Scores of each group's chosen and rejected continuations, in the groups' order. Processes that train together share
    the work, and all get all."""
    device = next(model.parameters()).device
    training = model.training

    def scores(part: Sequence[PairGroup]) -> list[tuple[list[float], list[float]]]:
        batch = collate(part, sharing=sharing, max_length=max_length)
        found = model(**{name: batch[name].to(device) for name in MODEL_INPUTS}).tolist()
        by_group = []
        for group in part:
            chosen, found = found[: len(group.chosen)], found[len(group.chosen) :]
            rejected, found = found[: len(group.rejected)], found[len(group.rejected) :]
            by_group.append((chosen, rejected))
        return by_group

    parts = [groups[start : start + GROUPS_AT_ONCE] for start in range(0, len(groups), GROUPS_AT_ONCE)]
    model.eval()
    with torch.no_grad():
        found = shared_out(parts, scores, filler=())
    model.train(training)
    return list(chain.from_iterable(found))


def pair_accuracy(
    model: ProcessPreferenceModel, groups: Sequence[PairGroup], *, sharing: Sharing, max_length: int
) -> PairAccuracy:
    """The accuracy on the pairs of `groups`. Raises ZeroDivisionError if there are none."""
    right: Counter[PairKind | int] = Counter()
    total: Counter[PairKind | int] = Counter()
    halves = 0
    for group, (chosen, rejected) in zip(
        groups, score_groups(model, groups, sharing=sharing, max_length=max_length), strict=True
    ):
        for at, other in group.pairs:
            points = 2 * (chosen[at] > rejected[other]) + (chosen[at] == rejected[other])
            halves += points
            keys: list[PairKind | int] = [group.kind]
            if group.kind is PairKind.STEP:
                keys.append(group.chosen[at].depth)
            for key in keys:
                right[key] += points
                total[key] += 1
    num_pairs = sum(len(group.pairs) for group in groups)
    depths = sorted(key for key in total if isinstance(key, int))
    return PairAccuracy(
        num_pairs=num_pairs,
        overall=halves / (2 * num_pairs),
        by_kind={kind: right[kind] / (2 * total[kind]) for kind in PairKind if total[kind]},
        by_depth={depth: right[depth] / (2 * total[depth]) for depth in depths},
        pairs_by_depth={depth: total[depth] for depth in depths},
    )  # fmt: skip


async def score_trajectories(
    trees: Iterable[Tree],
    value: ValueBackend,
    *,
    format: PromptFormat,
    encode: Encode,
    max_output_chars: int,
    render_chat: RenderChat | None = None,
) -> AsyncIterator[tuple[Tree, dict[int, float]]]:
    """Each tree with the scores of its whole trajectories, by the node of their answer: best of N for any value model.

    What the model reads is what a search would have it read: prefix and answer step, token for token. `format`, `encode`
    (the policy's) and `max_output_chars` are those of the search. Raises BackendError if the model cannot answer.
    """
    encode_once = lru_cache(maxsize=1024)(lambda text: tuple(encode(text)))

    async def scores(tree: Tree) -> dict[int, float]:
        prompt = render_prompt(format, tree.question, render_chat)
        siblings: dict[int, list[int]] = {}
        for node_id, node in enumerate(tree.nodes):
            if node.terminal is TerminalReason.ANSWERED:
                siblings.setdefault(node.parent, []).append(node_id)
        requests = []
        for parent, node_ids in siblings.items():
            prefix = prefix_of(
                tree, parent, prompt=prompt, encode=encode_once, max_output_chars=max_output_chars
            )
            requests.append(
                ScoreRequest(
                    prefix_text=prefix.text,
                    prefix_ids=prefix.token_ids,
                    step_texts=tuple(tree.nodes[node_id].text for node_id in node_ids),
                    step_ids=tuple(tree.nodes[node_id].token_ids for node_id in node_ids),
                    group=tree.name,
                )
            )
        values = chain.from_iterable(await asyncio.gather(*map(value.score, requests)))
        return dict(zip(chain.from_iterable(siblings.values()), values, strict=True))

    waiting = iter(trees)
    while part := list(islice(waiting, TREES_AT_ONCE)):
        for scored in zip(part, await asyncio.gather(*map(scores, part)), strict=True):
            yield scored
