"""Trees to look at: one that a real search has grown, with every ending, scores and failed candidates."""

from __future__ import annotations

import copy
import functools

from rstar.config import Guidance, SearchConfig
from rstar.tree import Tree
from tests.rstar.worlds import RandomWorld, coarse_value, engines, new_tree, search_one

NUM_ROLLOUTS = 12
SEEDS = {Guidance.PPM: 8, Guidance.TERMINAL: 63}
"""Where every ending occurs."""
WORLD = RandomWorld(crash=0.35, nonsense=0.1)


def searched(num_rollouts: int = NUM_ROLLOUTS, *, guidance: Guidance = Guidance.PPM) -> Tree:
    """A tree of its own; the same search, stopped after so many rollouts."""
    return copy.deepcopy(_searched(num_rollouts, guidance))


@functools.cache
def _searched(num_rollouts: int, guidance: Guidance) -> Tree:
    config = SearchConfig(num_candidates=4, max_depth=6, guidance=guidance)
    value = coarse_value if guidance is Guidance.PPM else None
    parts = engines(WORLD.respond, value=value)
    return search_one(new_tree(seed=SEEDS[guidance]), parts, config, num_rollouts=num_rollouts)
