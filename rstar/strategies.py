"""Ways to search one tree for an answer: MCTS, step beam, independent samples, greedy, all of the same kind of tree.

Sampling and beam search go down level by level, all nodes of a level at once. Equal steps are one node: the samples that
took it go on from there together, as many candidates below it as they are, which changes nothing about what each of them is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from rstar.config import Guidance, SearchConfig, greedy
from rstar.errors import ConfigError
from rstar.evaluation import together
from rstar.search import TreeSearch
from rstar.selection import UNSCORED, Method
from rstar.tree import ROOT, TerminalReason


class Strategy(StrEnum):
    """How a question is searched. Each follows `num_rollouts` trajectories: rollouts, samples or beams."""

    MCTS = "mcts"
    """Monte-Carlo tree search, guided by the preference model if there is one."""
    BEAM = "beam"
    """Step beam: of all next steps of the `num_rollouts` best prefixes, the best-scored are kept."""
    BEST_OF_N = "best_of_n"
    """Independent samples; the answer of the one that the preference model scores best."""
    MAJORITY = "majority"
    """Independent samples; the most frequent answer (self-consistency)."""
    GREEDY = "greedy"
    """The policy's likeliest step, again and again."""


NEED_VALUE = frozenset({Strategy.BEAM, Strategy.BEST_OF_N})
"""What cannot do without a preference model."""


def configured(strategy: Strategy, config: SearchConfig, *, has_value: bool) -> SearchConfig:
    """What the strategy makes of the settings: who guides, and greedy's single path.

    Raises ConfigError if it needs a preference model and there is none.
    """
    if strategy in NEED_VALUE and not has_value:
        raise ConfigError(
            f"strategy {strategy} needs a preference model and there is none; give one (ppm=...), or take mcts or majority"
        )
    match strategy:
        case Strategy.GREEDY:
            return greedy(config)
        case Strategy.MAJORITY | Strategy.BEST_OF_N:
            return dataclasses.replace(config, guidance=Guidance.TERMINAL)
        case Strategy.MCTS | Strategy.BEAM:
            guidance = Guidance.PPM if has_value else Guidance.TERMINAL
            return dataclasses.replace(config, guidance=guidance)


def default_method(strategy: Strategy, *, has_value: bool) -> Method:
    """How the strategy selects its answer."""
    match strategy:
        case Strategy.BEST_OF_N:
            return Method.BEST
        case Strategy.MCTS | Strategy.BEAM if has_value:
            return Method.WEIGHTED_VOTE
        case _:
            return Method.MAJORITY


def check_method(method: Method, *, has_value: bool) -> None:
    """Raise ConfigError for a selection by scores where nothing scores."""
    if method not in UNSCORED and not has_value:
        raise ConfigError(f"selection {method} needs a preference model and there is none; take majority")


async def follow(strategy: Strategy, search: TreeSearch, num_rollouts: int | None = None) -> None:
    """Search to the end of `num_rollouts` (None: the config's number), or until the search says that it is enough.

    Raises BackendError, SandboxError or GradingError if one of them stays out of order.
    """
    if strategy in (Strategy.MCTS, Strategy.GREEDY):
        await search.run(num_rollouts)
        return
    count = search.config.num_rollouts if num_rollouts is None else num_rollouts
    try:
        if strategy is Strategy.BEAM:
            await beam(search, count)
        else:
            await sample(search, count)
    finally:
        search.engines.sandbox.release(search.tree.name)


async def sample(search: TreeSearch, num_samples: int) -> None:
    """So many independent samples, as one tree."""
    going_on = {ROOT: num_samples}
    level = 0
    while going_on and not await search.stopped():
        children = await expand_level(search, going_on, level=level)
        going_on = {child: search.tree.nodes[child].multiplicity for child in children}
        level += 1
    search.tree.num_rollouts = num_samples


async def beam(search: TreeSearch, width: int) -> list[int]:
    """Keep the `width` best-scored prefixes; an answered one keeps its place as long as its score does. Returns the nodes
    that were kept to the end, best first."""
    nodes = search.tree.nodes
    best = [ROOT]
    level = 0
    while (
        open_nodes := [node_id for node_id in best if not nodes[node_id].closed]
    ) and not await search.stopped():
        before = len(nodes)
        await expand_level(search, dict.fromkeys(open_nodes, search.config.num_candidates), level=level)
        new = [
            node_id
            for node_id in range(before, len(nodes))
            if nodes[node_id].live
            and nodes[node_id].initial_value is not None
            and nodes[node_id].terminal in (None, TerminalReason.ANSWERED)
        ]
        kept = [node_id for node_id in best if nodes[node_id].terminal is TerminalReason.ANSWERED]
        best = sorted([*kept, *new], key=lambda node_id: -(nodes[node_id].initial_value or 0.0))[:width]
        level += 1
    search.tree.num_rollouts = width
    return best


async def expand_level(search: TreeSearch, nodes: Mapping[int, int], *, level: int) -> list[int]:
    """Expand nodes at once, each with its number of candidates; the children that the search can go on from.

    They are attached in the order of `nodes`, so that ids, and with them seeds, depend on nothing else.
    """
    found = await together(
        search.continuations(node_id, rollout=level, num_candidates=count) for node_id, count in nodes.items()
    )
    for node_id, evaluated in zip(nodes, found, strict=True):
        search.attach(node_id, evaluated)
    tree = search.tree
    return [
        child for node_id in nodes for child in tree.live_children(node_id) if not tree.nodes[child].closed
    ]
